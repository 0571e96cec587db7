"""Batch normalisation steadies layer inputs, allows larger steps, hardly minds the parameters' scale, and regularises.

**Question.** What does batch normalisation (BN) do to what reaches a layer while those below it change (internal
covariate shift), to the learning rates and initial kernels that work, and to accuracy on unseen images?

**Varied.** BN in front of each ReLU of a small network, or none; by turns the learning rate, a factor on all initial
kernels (He's), and dropout in front of the classifier, on a small training set.

**Expected.** Without BN what reaches a ReLU wanders off; with it, it stays near mean 0 and deviation 1. BN trains at
rates and scales at which the plain network diverges or stands still, and does as well as dropout on unseen images.
"""

import numpy as np
import optax

from experiments.experiment import Experiment, is_above, judge, pick, spread, where
from experiments.networks import reaching_relu, small_network
from experiments.plots import figure, percentiles, points
from experiments.training import load_images, train

BASE = {"part": "rate scale dropout", "rate": 0.1, "scale": 1.0, "dropout": 0.0, "batch_size": 64}
RATES, SCALES = (0.01, 0.3, 1.0, 3.0, 10.0, 30.0), (0.1, 0.3, 3.0, 10.0)
VARIED = {"rate": "learning rate", "scale": "factor on all initial kernels", "dropout": "dropout rate"}


def configs(budget):
    tiny, small = ("fashion_mnist_mini", 128, 4, 4, 4, 2), ("fashion_mnist_mini", 1000, 2, 16, 300, 20)
    values = pick(budget, tiny=tiny, small=small, full=("cifar10", 10_000, 1, 64, 5000, 50))
    data = dict(zip(("dataset", "examples", "shrink", "width", "steps", "tests"), values, strict=True))
    more = [] if budget == "tiny" else [*(("rate", rate) for rate in RATES), *(("scale", scale) for scale in SCALES)]
    varied = [{}, *({"part": name, name: value, "tests": 1} for name, value in [*more, ("dropout", 0.5)])]
    return [{**BASE, **data, **v, "norm": norm} for v in varied for norm in (False, True)]


def measure(config, seeds):
    images = load_images(config["dataset"], shrink=config["shrink"], examples=config["examples"])
    model = small_network(config["width"], **{name: config[name] for name in ("scale", "norm", "dropout")})
    tests = range(0, config["steps"] + 1, config["steps"] // config["tests"])
    options = {"steps": config["steps"], "batch_size": config["batch_size"], "seeds": seeds, "tests": tests}
    done = train(model, images, optax.sgd(config["rate"]), probe=reaching_relu(model, layer=3), **options)
    return {"test_steps": done.test_steps, "accuracy": done.test_accuracy, **done.probes}


def parts(records):
    """For each of what is varied, its records without BN, and with it."""
    usual = [{other: BASE[other] for other in VARIED if other != name} for name in VARIED]
    return [[where(records, name, norm=n, **u) for n in (False, True)] for name, u in zip(VARIED, usual, strict=True)]


def figures(records):
    inputs, axes = figure(finding(records).text.split("; ")[2].capitalize() + " (with BN, without)", 2, sharey=True)
    for axis, record, title in zip(axes, records, ("without BN", "with BN"), strict=False):
        for channel in range(3):
            percentiles(axis, record["test_steps"], record["percentiles"][0, :, :, channel])
        axis.set(xlabel="update", ylabel="input of the third ReLU, 15th to 85th percentile", title=title)
    made, axes = figure(finding(records).text.partition(";")[0], 3)
    for axis, name, both in zip(axes, VARIED, parts(records), strict=True):
        for found, label in zip(both, ("without BN", "with BN"), strict=True):
            points(axis, [r.config[name] for r in found], [100 * r["accuracy"] for r in found], label)
        axis.set(xscale="linear" if name == "dropout" else "log", xlabel=VARIED[name], ylabel="test accuracy (%)")
    axes[0].legend()
    return {"layer_inputs": inputs, "batch_normalization": made}


def finding(records):
    rate, scale, dropout = parts(records)
    largest = [max((r.config["rate"] for r in found if r["accuracy"].mean() > 0.5), default=0) for found in rate]
    worst = [min((r["accuracy"] for r in found), key=np.mean) for found in scale]
    drift = [(abs(r["mean"][:, -1] - r["mean"][:, 0]) / r["deviation"][:, 0]).mean(-1) for r in records[:2]]
    alone, dropped, instead = (r["accuracy"] for r in (*dropout[0], dropout[1][0]))
    is_substitute = is_above(instead, alone) and not is_above(dropped, instead)
    text = f"The largest learning rate that trains is {largest[1]:g} with BN and {largest[0]:g} without; at the worst "
    text += f"scale of the kernels accuracy is {spread(worst[1])} and {spread(worst[0])}; a channel's mean ends "
    text += f"{spread(drift[1], '', 2)} and {spread(drift[0], '', 2)} deviations from where it began; on unseen images "
    text += f"{spread(instead)} with BN, {spread(dropped)} with dropout, {spread(alone)} with neither."
    return judge([is_above(*drift), largest[1] > largest[0], is_above(worst[1], worst[0]), is_substitute], text)


EXPERIMENT = Experiment("C6", configs, measure, figures, finding)
