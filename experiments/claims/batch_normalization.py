"""Batch normalization stabilizes layer inputs, permits larger learning rates and initial scales, and regularizes.

**Question.** What does batch normalization (BN) change in the inputs of a layer while the layers below it learn
(internal covariate shift), in the learning rates and initial scales that work, and in test accuracy?

**Varied.** BN before each ReLU of a small network, or none; one at a time, the learning rate, a factor on the
He-initialized kernels, and dropout before the classifier, on a small training set.

**Expected.** Without BN the input of a ReLU drifts; with BN it stays near mean 0 and standard deviation 1. BN trains at
learning rates and scales at which the plain network diverges or does not learn, and regularizes as well as dropout.
"""

import numpy as np
import optax

from experiments.experiment import Experiment, conclude, format_mean, is_above, pick, select
from experiments.networks import relu_inputs, small_network
from experiments.plots import figure, percentiles, points
from experiments.training import load_images, train

RATES = (0.01, 0.3, 1.0, 3.0, 10.0, 30.0)
SCALES = (0.1, 0.3, 3.0, 10.0)
DROPOUT_RATES = (0.5,)
DEFAULTS = {"rate": 0.1, "scale": 1.0, "dropout": 0.0}
LABELS = {"rate": "learning rate", "scale": "factor on all initial kernels", "dropout": "dropout rate"}
TRAINS = 0.5  # test accuracy above which a network counts as trained


def configs(budget):
    base = {
        "part": "rate scale dropout",  # the default setting belongs to all three parts
        **DEFAULTS,
        "batch_size": 64,
        "dataset": pick(budget, tiny="fashion_mnist_mini", small="fashion_mnist_mini", full="cifar10"),
        "examples": pick(budget, tiny=128, small=1000, full=10_000),
        "shrink": pick(budget, tiny=4, small=2, full=1),
        "width": pick(budget, tiny=4, small=16, full=64),
        "steps": pick(budget, tiny=4, small=300, full=5000),
        "tests": pick(budget, tiny=2, small=20, full=50),
    }
    varied = {"rate": RATES, "scale": SCALES, "dropout": DROPOUT_RATES}
    if budget == "tiny":
        varied = {"dropout": DROPOUT_RATES}
    settings = [base]
    for part, values in varied.items():
        settings += [{**base, "part": part, part: value, "tests": 1} for value in values]
    return [{**setting, "norm": norm} for setting in settings for norm in (False, True)]


def measure(config, seeds):
    images = load_images(config["dataset"], shrink=config["shrink"], examples=config["examples"])
    model = small_network(config["width"], norm=config["norm"], scale=config["scale"], dropout=config["dropout"])
    steps = config["steps"]
    done = train(
        model,
        images,
        optax.sgd(config["rate"]),
        steps=steps,
        batch_size=config["batch_size"],
        seeds=seeds,
        tests=range(0, steps + 1, steps // config["tests"]),
        probe=relu_inputs(model, layer=3),
    )
    return {"test_steps": done.test_steps, "accuracy": done.test_accuracy, **done.probes}


def part(measurements, name):
    """Return the measurements in which only `name` varies: those without BN, and those with BN."""
    fixed = {other: value for other, value in DEFAULTS.items() if other != name}
    return [select(measurements, order_by=name, norm=norm, **fixed) for norm in (False, True)]


def mean_drift(measurement):
    """Return how far the mean of a ReLU's input moves in training, in initial standard deviations, `[S]`."""
    shift = abs(measurement["mean"][:, -1] - measurement["mean"][:, 0])
    return (shift / measurement["deviation"][:, 0]).mean(axis=-1)


def largest_rate(measurements):
    """Return the largest learning rate at which the network trains; 0 if there is none."""
    rates = [m.config["rate"] for m in measurements if m["accuracy"].mean() > TRAINS]
    return max(rates, default=0)


def draw_inputs(plain, normalized):
    title = (
        f"During training the mean of a ReLU's input moves by {mean_drift(plain).mean():.2f} standard deviations "
        f"without BN, by {mean_drift(normalized).mean():.2f} with BN"
    )
    made, axes = figure(title, 2, width=9.5, sharey=True)
    for axis, m, label in zip(axes, (plain, normalized), ("without BN", "with BN"), strict=True):
        for channel in range(3):
            percentiles(axis, m["test_steps"], m["percentiles"][0, :, :, channel])
        axis.set(xlabel="step", ylabel="input of the third ReLU, 15th to 85th percentile", title=label)
    return made


def draw_accuracies(measurements):
    plain, normalized = (largest_rate(of_kind) for of_kind in part(measurements, "rate"))
    made, axes = figure(f"The largest learning rate that trains is {normalized:g} with BN, {plain:g} without", 3)
    for axis, name in zip(axes, LABELS, strict=True):
        for of_kind, label in zip(part(measurements, name), ("without BN", "with BN"), strict=True):
            points(axis, [m.config[name] for m in of_kind], [100 * m["accuracy"] for m in of_kind], label)
        axis.set(xscale="linear" if name == "dropout" else "log", xlabel=LABELS[name], ylabel="test accuracy (%)")
    axes[0].legend()
    return made


def figures(measurements):
    plain, normalized = measurements[:2]
    return {"layer_inputs": draw_inputs(plain, normalized), "batch_normalization": draw_accuracies(measurements)}


def conclusion(measurements):
    drift_without, drift_with = (mean_drift(m) for m in measurements[:2])
    rate_without, rate_with = (largest_rate(of_kind) for of_kind in part(measurements, "rate"))
    worst_without, worst_with = (
        min((m["accuracy"] for m in of_kind), key=np.mean) for of_kind in part(measurements, "scale")
    )
    plain, normalized = part(measurements, "dropout")
    neither, only_dropout = (m["accuracy"] for m in plain)
    only_norm = normalized[0]["accuracy"]
    is_substitute = is_above(only_norm, neither) and not is_above(only_dropout, only_norm)
    return conclude(
        [
            is_above(drift_without, drift_with),
            rate_with > rate_without,
            is_above(worst_with, worst_without),
            is_substitute,
        ],
        f"The largest learning rate that trains is {rate_with:g} with BN and {rate_without:g} without. At the worst "
        f"initial scale, test accuracy is {format_mean(worst_with)} with BN and {format_mean(worst_without)} without. "
        f"The mean of a channel moves by {format_mean(drift_with, '', 2)} standard deviations with BN and by "
        f"{format_mean(drift_without, '', 2)} without. Test accuracy is {format_mean(only_norm)} with BN, "
        f"{format_mean(only_dropout)} with dropout, {format_mean(neither)} with neither.",
    )


EXPERIMENT = Experiment("C6", configs, measure, figures, conclusion)
