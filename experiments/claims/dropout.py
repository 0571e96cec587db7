"""Dropout prevents overfitting.

**Question.** A network that is large for its training set memorizes it: the training loss falls to zero, and the test
loss rises. Does it prevent that to drop hidden units at random during training?

**Varied.** The dropout rate after both of two wide fully connected layers, on a small training set. Both losses are
computed in evaluation mode, without dropout.

**Expected.** Without dropout the test loss turns and rises while the training loss vanishes. The larger the rate, the
smaller the gap between them, up to rates at which the network learns too little in the given steps.
"""

import optax

from experiments.experiment import Experiment, conclude, format_mean, is_above, pick
from experiments.plots import curve, figure, points
from experiments.training import load_images, train
from jaxcnn.layers import Conv, Dense, Dropout, Flatten, MaxPool, ReLU, Sequential, initializers

RATES = (0.0, 0.2, 0.5, 0.8)


def configs(budget):
    rates = RATES[::2] if budget == "tiny" else RATES
    settings = {
        "batch_size": 64,
        "dataset": pick(budget, tiny="fashion_mnist_mini", small="fashion_mnist_mini", full="cifar10"),
        "shrink": pick(budget, tiny=2, small=1, full=1),
        "examples": pick(budget, tiny=128, small=1000, full=5000),
        "width": pick(budget, tiny=32, small=512, full=2048),
        "steps": pick(budget, tiny=4, small=500, full=8000),
        "tests": pick(budget, tiny=2, small=10, full=40),
    }
    return [{"rate": rate, **settings} for rate in rates]


def network(width, rate):
    """Return two convolutions, and two fully connected layers that contain nearly all of the parameters."""
    he = initializers.he_normal
    layers = []
    for channels in (16, 32):
        layers += [Conv(channels, 3, padding=1, kernel_init=he), ReLU(), MaxPool(2)]
    layers.append(Flatten())
    for _ in range(2):
        layers += [Dense(width, kernel_init=he), ReLU(), Dropout(rate)]
    return Sequential([*layers, Dense(10)])


def measure(config, seeds):
    images = load_images(config["dataset"], shrink=config["shrink"], examples=config["examples"])
    model = network(config["width"], config["rate"])
    steps, batch_size = config["steps"], config["batch_size"]
    test_steps = range(0, steps + 1, steps // config["tests"])
    done = train(model, images, optax.adam(1e-3), steps=steps, batch_size=batch_size, seeds=seeds, tests=test_steps)
    return {
        "epochs": done.test_steps * batch_size / config["examples"],
        **done.tests,
        "gap": done.tests["test_loss"][:, -1] - done.tests["train_loss"][:, -1],
        "accuracy": done.test_accuracy,
        "params": done.params,
    }


def figures(measurements):
    rates = [m.config["rate"] for m in measurements]
    gaps = [m["gap"] for m in measurements]
    title = (
        f"Test loss exceeds training loss by {gaps[0].mean():.2f} nats without dropout, by {gaps[-1].mean():.2f} at "
        f"rate {rates[-1]:g}"
    )
    made, (left, middle, right) = figure(title, 3)
    for index, m in enumerate(measurements):
        curve(left, m["epochs"], m["test_loss"], f"{rates[index]:g}", color=f"C{index}")
        curve(left, m["epochs"], m["train_loss"], color=f"C{index}", ls="--")
    left.set(xlabel="epoch", ylabel="loss (nats)", ylim=(0, 1.5), title="solid: test images, dashed: training images")
    left.legend(title="dropout rate", ncols=2)
    points(middle, rates, gaps)
    middle.set(xlabel="dropout rate", ylabel="test loss − training loss (nats)", title="gap after training")
    points(right, rates, [100 * m["accuracy"] for m in measurements])
    right.set(xlabel="dropout rate", ylabel="test accuracy (%)", title="accuracy after training")
    return {"dropout": made}


def conclusion(measurements):
    plain = measurements[0]
    smallest_gap = min(measurements, key=lambda m: m["gap"].mean())
    best = max(measurements, key=lambda m: m["accuracy"].mean())
    parts = [is_above(plain["gap"], smallest_gap["gap"]), is_above(best["accuracy"], plain["accuracy"])]
    return conclude(
        parts,
        f"Finally, test loss exceeds training loss by {format_mean(plain['gap'], 'nats', 2)} without dropout and "
        f"by {format_mean(smallest_gap['gap'], 'nats', 2)} at rate {smallest_gap.config['rate']:g}. Test accuracy is "
        f"{format_mean(plain['accuracy'])} without dropout, {format_mean(best['accuracy'])} at the best rate, "
        f"{best.config['rate']:g}, and {format_mean(smallest_gap['accuracy'])} at {smallest_gap.config['rate']:g}.",
    )


EXPERIMENT = Experiment("C4", configs, measure, figures, conclusion)
