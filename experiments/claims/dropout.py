"""Dropout prevents overfitting.

**Question.** A network that is large for its training set learns it by heart: its loss falls to nothing there, and
rises on images that it has not seen. Does leaving out hidden units at random while training prevent that?

**Varied.** The rate, the share of units left out behind both of two wide fully connected layers; the training set is
small. Both losses are taken without dropout, as when testing.

**Expected.** Without dropout the test loss turns round and climbs while the training loss vanishes. The larger the
rate, the smaller the gap between them, up to rates at which too little is learned in the time.
"""

import optax

from experiments.experiment import Experiment, is_above, judge, pick, spread
from experiments.plots import curve, figure, points
from experiments.training import load_images, train
from jaxcnn.layers import Conv, Dense, Dropout, Flatten, MaxPool, ReLU, Sequential, initializers

RATES = (0.0, 0.2, 0.5, 0.8)


def configs(budget):
    names = ("dataset", "shrink", "examples", "width", "steps", "tests")
    tiny, small = ("fashion_mnist_mini", 2, 128, 32, 4, 2), ("fashion_mnist_mini", 1, 1000, 512, 500, 10)
    values = pick(budget, tiny=tiny, small=small, full=("cifar10", 1, 5000, 2048, 8000, 40))
    rates = RATES[::2] if budget == "tiny" else RATES
    return [{"rate": rate, "batch_size": 64, **dict(zip(names, values, strict=True))} for rate in rates]


def network(width, rate):
    """Two convolutions, and two fully connected layers that hold nearly all of the parameters."""
    layers, he = [], {"kernel_init": initializers.he_normal}
    for features in (16, 32):
        layers += [Conv(features, 3, padding=1, **he), ReLU(), MaxPool(2)]
    layers += [Flatten(), Dense(width, **he), ReLU(), Dropout(rate), Dense(width, **he), ReLU(), Dropout(rate)]
    return Sequential([*layers, Dense(10)])


def measure(config, seeds):
    images = load_images(config["dataset"], shrink=config["shrink"], examples=config["examples"])
    tests = range(0, config["steps"] + 1, config["steps"] // config["tests"])
    options = {"steps": config["steps"], "batch_size": config["batch_size"], "seeds": seeds, "tests": tests}
    done = train(network(config["width"], config["rate"]), images, optax.adam(1e-3), **options)
    epochs = done.test_steps * config["batch_size"] / config["examples"]
    gap = done.tests["test_loss"][:, -1] - done.tests["train_loss"][:, -1]
    return {"epochs": epochs, **done.tests, "gap": gap, "accuracy": done.test_accuracy, "params": done.params}


def figures(records):
    rates, gaps = [r.config["rate"] for r in records], [r["gap"] for r in records]
    ends = f"{gaps[0].mean():.2f} nats without dropout, by {gaps[-1].mean():.2f} at rate {rates[-1]:g}"
    made, (left, middle, right) = figure(f"Test loss is above training loss by {ends}", 3)
    for index, record in enumerate(records):
        curve(left, record["epochs"], record["test_loss"], f"{rates[index]:g}", color=f"C{index}")
        curve(left, record["epochs"], record["train_loss"], color=f"C{index}", ls="--")
    left.set(xlabel="epoch", ylabel="loss (nats)", ylim=(0, 1.5), title="solid: test images, dashed: training images")
    left.legend(title="dropout rate", ncols=2)
    points(middle, rates, gaps)
    middle.set(xlabel="dropout rate", ylabel="test loss − training loss (nats)", title="gap after training")
    points(right, rates, [100 * record["accuracy"] for record in records])
    right.set(xlabel="dropout rate", ylabel="test accuracy (%)", title="accuracy after training")
    return {"dropout": made}


def finding(records):
    plain, least = records[0], min(records, key=lambda r: r["gap"].mean())
    best = max(records, key=lambda r: r["accuracy"].mean())
    shown = [is_above(plain["gap"], least["gap"]), is_above(best["accuracy"], plain["accuracy"])]
    text = f"At the end test loss is above training loss by {spread(plain['gap'], 'nats', 2)} without dropout, by "
    text += f"{spread(least['gap'], 'nats', 2)} at rate {least.config['rate']:g}. Accuracy on the test images is "
    text += (
        f"{spread(plain['accuracy'])} without dropout, at best {spread(best['accuracy'])}, at {best.config['rate']:g}, "
    )
    text += f"and {spread(least['accuracy'])} at {least.config['rate']:g}."
    return judge(shown, text)


EXPERIMENT = Experiment("C4", configs, measure, figures, finding)
