"""A convolution needs far fewer parameters than a fully connected layer, and does no worse.

**Question.** An image of 28x28 pixels has 784 inputs; what does it cost to connect each of them to each unit, and what
is it good for?

**Varied.** Networks of one or two hidden fully connected layers, from 8 to 512 units wide, and networks of two 5x5
convolutions with pooling, from 2 and 4 to 16 and 32 maps, trained alike. All are tested on the test images as they
are, and on the same images moved by up to three pixels.

**Expected.** A convolution's weights are shared by all positions, so that its network is as accurate with a small part
of the parameters. What it has learned at one place holds at others, so that it bears it better if images move.
"""

import jax.numpy as jnp
import numpy as np
import optax

from experiments.experiment import Experiment, Finding, pick, spread
from experiments.plots import figure, points
from experiments.training import load_images, train
from jaxcnn.layers import Conv, Dense, Flatten, MaxPool, ReLU, Sequential

CONNECTED = ((8,), (32,), (128,), (512,), (512, 512))
CONVOLVED = ((2, 4), (4, 8), (8, 16), (16, 32))


def configs(budget):
    few, steps, dataset = pick(budget, tiny=(1, 4, MINI), small=(5, 900, MINI), full=(5, 20_000, "fashion_mnist"))
    networks = [(FC, w) for w in CONNECTED[:few]] + [(CONV, w) for w in CONVOLVED[:few]]
    return [{"kind": k, "widths": list(w), "steps": steps, "dataset": dataset} for k, w in networks]


def network(kind, widths):
    if kind == FC:
        hidden = [Flatten(), *(layer for width in widths for layer in (Dense(width), ReLU()))]
    else:
        hidden = [*(layer for w in widths for layer in (Conv(w, 5, padding=2), ReLU(), MaxPool(2))), Flatten()]
    return Sequential([*hidden, Dense(10)])


def measure(config, seeds):
    images, model = load_images(config["dataset"]), network(config["kind"], config["widths"])
    optimizer = optax.sgd(optax.cosine_decay_schedule(0.05, config["steps"]), momentum=0.9)
    done = train(model, images, optimizer, steps=config["steps"], batch_size=64, seeds=seeds, tests=1)
    moves = np.random.default_rng(0).integers(-3, 4, (len(images.test[0]), 2))
    moved = np.stack([np.roll(image, tuple(move), (0, 1)) for image, move in zip(images.test[0], moves, strict=True)])
    moved = images.normalize(jnp.asarray(moved))
    answers = [model.apply({"params": state.params}, moved, train=False).argmax(-1) for state in done.states]
    return {"params": done.params, "accuracy": done.test_accuracy, "moved": np.mean(answers == images.test[1], axis=1)}


def figures(records):
    made, (left, right) = figure("The same accuracy with a small part of the parameters", 2, sharey=True)
    for kind in (FC, CONV):
        rows = [record for record in records if record.config["kind"] == kind]
        for axes, name in ((left, "accuracy"), (right, "moved")):
            points(axes, [r.values["params"] for r in rows], [100 * r[name] for r in rows], kind)
            axes.set(xscale="log", xlabel="parameters")
    left.set(title="test images", ylabel="accuracy (%)")
    right.set(title="test images moved by up to 3 pixels")
    left.legend()
    return {"parameters": made}


def finding(records):
    rows = {kind: [r for r in records if r.config["kind"] == kind] for kind in (FC, CONV)}
    best = {kind: max(rows[kind], key=lambda r: r["accuracy"].mean()) for kind in rows}
    equal = [r for r in rows[CONV] if r["accuracy"].mean() >= best[FC]["accuracy"].mean()]
    small, large = min(equal or [best[CONV]], key=lambda r: r.values["params"]), best[FC]
    return Finding(
        "yes" if equal and small.values["params"] < large.values["params"] / 5 else "partly" if equal else "no",
        f"The best fully connected network has {large.values['params']:,} parameters and {spread(large['accuracy'])} "
        f"on test images ({spread(large['moved'])} on moved ones); convolutions reach {spread(small['accuracy'])} "
        f"({spread(small['moved'])}) with {small.values['params']:,}, and {spread(best[CONV]['accuracy'])} at best.",
    )


FC, CONV, MINI = "fully connected", "convolutions", "fashion_mnist_mini"
EXPERIMENT = Experiment("C1", configs, measure, figures, finding)
