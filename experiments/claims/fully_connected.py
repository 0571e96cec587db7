"""Convolutions need far fewer parameters than fully connected layers to reach the same accuracy.

**Question.** An image of 28x28 pixels has 784 inputs. What does it cost to connect every input to every unit, and what
is gained?

**Varied.** Networks with one or two hidden fully connected layers of 8 to 512 units, and networks with two 5x5
convolutions and pooling, of 2 and 4 to 16 and 32 channels. All are trained alike, and tested on the test images and on
the same images shifted by up to three pixels.

**Expected.** A convolution shares its weights between all positions, so it reaches the same accuracy with a fraction of
the parameters. What it learns at one position applies at all others, so it loses less accuracy on shifted images.
"""

import jax.numpy as jnp
import numpy as np
import optax

from experiments.experiment import Conclusion, Experiment, format_mean, pick
from experiments.plots import figure, points
from experiments.training import load_images, train
from jaxcnn.layers import Conv, Dense, Flatten, MaxPool, ReLU, Sequential

FULLY_CONNECTED, CONVOLUTIONAL = "fully connected", "convolutions"
HIDDEN_UNITS = ((8,), (32,), (128,), (512,), (512, 512))
CHANNELS = ((2, 4), (4, 8), (8, 16), (16, 32))


def configs(budget):
    settings = {
        "steps": pick(budget, tiny=4, small=900, full=20_000),
        "dataset": pick(budget, tiny="fashion_mnist_mini", small="fashion_mnist_mini", full="fashion_mnist"),
    }
    count = 1 if budget == "tiny" else None
    networks = [(FULLY_CONNECTED, widths) for widths in HIDDEN_UNITS[:count]]
    networks += [(CONVOLUTIONAL, widths) for widths in CHANNELS[:count]]
    return [{"kind": kind, "widths": list(widths), **settings} for kind, widths in networks]


def network(kind, widths):
    layers = []
    if kind == FULLY_CONNECTED:
        layers.append(Flatten())
        for units in widths:
            layers += [Dense(units), ReLU()]
    else:
        for channels in widths:
            layers += [Conv(channels, 5, padding=2), ReLU(), MaxPool(2)]
        layers.append(Flatten())
    return Sequential([*layers, Dense(10)])


def shifted(images):
    """Return uint8 images `[N, H, W, C]`, each shifted at random by up to three pixels in both directions."""
    shifts = np.random.default_rng(0).integers(-3, 4, (len(images), 2))
    return np.stack([np.roll(image, tuple(shift), (0, 1)) for image, shift in zip(images, shifts, strict=True)])


def measure(config, seeds):
    images = load_images(config["dataset"])
    model = network(config["kind"], config["widths"])
    optimizer = optax.sgd(optax.cosine_decay_schedule(0.05, config["steps"]), momentum=0.9)
    done = train(model, images, optimizer, steps=config["steps"], batch_size=64, seeds=seeds, tests=1)
    test_images, test_labels = images.test
    inputs = images.normalize(jnp.asarray(shifted(test_images)))
    predicted = [model.apply({"params": state.params}, inputs, train=False).argmax(-1) for state in done.states]
    moved_accuracy = np.mean(predicted == test_labels, axis=1)
    return {"params": done.params, "accuracy": done.test_accuracy, "moved": moved_accuracy}


def figures(measurements):
    title = "Accuracy by number of parameters, with fully connected layers and with convolutions"
    made, (left, right) = figure(title, 2, sharey=True)
    for kind in (FULLY_CONNECTED, CONVOLUTIONAL):
        of_kind = [m for m in measurements if m.config["kind"] == kind]
        params = [m.values["params"] for m in of_kind]
        points(left, params, [100 * m["accuracy"] for m in of_kind], kind)
        points(right, params, [100 * m["moved"] for m in of_kind], kind)
    left.set(xscale="log", xlabel="parameters", title="test images", ylabel="accuracy (%)")
    right.set(xscale="log", xlabel="parameters", title="test images shifted by up to 3 pixels")
    left.legend()
    return {"parameters": made}


def most_accurate(measurements, kind):
    return max((m for m in measurements if m.config["kind"] == kind), key=lambda m: m["accuracy"].mean())


def conclusion(measurements):
    connected = most_accurate(measurements, FULLY_CONNECTED)
    best = most_accurate(measurements, CONVOLUTIONAL)
    as_accurate = [
        m
        for m in measurements
        if m.config["kind"] == CONVOLUTIONAL and m["accuracy"].mean() >= connected["accuracy"].mean()
    ]
    smallest = min(as_accurate or [best], key=lambda m: m.values["params"])
    if not as_accurate:
        confirmed = "no"
    else:
        confirmed = "yes" if smallest.values["params"] < connected.values["params"] / 5 else "partly"
    return Conclusion(
        confirmed,
        f"The best fully connected network has {connected.values['params']:,} parameters and reaches "
        f"{format_mean(connected['accuracy'])} on test images ({format_mean(connected['moved'])} on shifted ones). "
        f"Convolutions reach {format_mean(smallest['accuracy'])} ({format_mean(smallest['moved'])}) with "
        f"{smallest.values['params']:,} parameters, and {format_mean(best['accuracy'])} at best.",
    )


EXPERIMENT = Experiment("C1", configs, measure, figures, conclusion)
