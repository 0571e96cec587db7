"""Gradients vanish with depth under sigmoid; ReLU, Xavier or He initialization and batch normalization prevent it.

**Question.** How much gradient reaches the first layers of an untrained deep network, and which remedy restores it?

**Varied.** The activation, batch normalization (BN) and the initialization ("naive": uniform in ±1/√n for n inputs) of
stacks of 5 to 50 identical 3x3 convolutions.

**Expected.** The slope of a sigmoid is at most 1/4, so its gradients vanish. Xavier initialization suits tanh, He
initialization suits ReLU, and BN works with any of them.
"""

import numpy as np
import optax

from experiments.deep_stack import ACTIVATIONS, INITIALIZERS, DeepStack, gradient_powers
from experiments.experiment import Conclusion, Experiment, format_mean, pick
from experiments.plots import bars, figure, panels
from experiments.training import load_images, train

# (activation, initializer, whether it has BN)
TRAINED = (
    ("sigmoid", "naive", False),
    ("sigmoid", "Xavier", False),
    ("tanh", "Xavier", False),
    ("ReLU", "naive", False),
    ("ReLU", "He", False),
    ("sigmoid", "naive", True),
    ("ReLU", "naive", True),
)
# Activations with one remedy each; the claim holds if the gradient survives in all of them.
ONE_REMEDY = {"ReLU naive", "sigmoid Xavier", "sigmoid He", "sigmoid naive BN"}
# The gradient counts as surviving above this log10 of its norm.
VANISHED = -3


def configs(budget):
    depths = pick(budget, tiny=(2, 4), small=(5, 10, 20, 50), full=(5, 10, 20, 30, 40, 50))
    before_training = [
        {"activation": activation, "normalized": normalized, "depths": depths}
        for normalized in (False, True)
        for activation in ACTIVATIONS
    ]
    depth = pick(budget, tiny=2, small=10, full=20)
    steps = pick(budget, tiny=2, small=150, full=5000)
    trained = [
        {"activation": activation, "initializer": initializer, "normalized": normalized, "depth": depth, "steps": steps}
        for activation, initializer, normalized in TRAINED
    ]
    count = 1 if budget == "tiny" else None
    data = {"shrink": pick(budget, tiny=4, small=2, full=1), "dataset": "fashion_mnist_mini"}
    return [{**config, **data} for config in before_training[:count] + trained[:count]]


def measure(config, seeds):
    images = load_images(config["dataset"], shrink=config["shrink"])
    fields = {"activation": config["activation"], "normalized": config["normalized"]}
    if "steps" in config:
        stack = DeepStack(config["depth"], initializer=config["initializer"], **fields)
        optimizer = optax.sgd(0.01, momentum=0.9)
        done = train(stack, images, optimizer, steps=config["steps"], batch_size=64, seeds=seeds, tests=1)
        return {"accuracy": done.test_accuracy}
    x, labels = images.normalize(images.train[0][:64]), images.train[1][:64]
    powers = {}
    for initializer in INITIALIZERS:
        for depth in config["depths"]:
            stack = DeepStack(depth, initializer=initializer, **fields)
            powers[f"{initializer} {depth}"] = gradient_powers(stack, x, labels, seeds)
    return powers


def stack_name(measurement, initializer):
    suffix = " BN" if measurement.config["normalized"] else ""
    return f"{measurement.config['activation']} {initializer}{suffix}"


def split(measurements):
    """Return the measurements before training, and those after it."""
    before_training = [m for m in measurements if "depths" in m.config]
    trained = [m for m in measurements if "steps" in m.config]
    return before_training, trained


def draw_gradients(before_training):
    """Return a figure of the gradient by layer in the deepest stacks, and one of its ratio from end to end by depth."""
    depths = before_training[0].config["depths"]
    by_layer, ratios = {}, {}
    for m in before_training:
        panel = f"{m.config['activation']} {'with' if m.config['normalized'] else 'without'} BN"
        by_layer[panel], ratios[panel] = {}, {}
        for initializer in INITIALIZERS:
            powers = [m[f"{initializer} {depth}"] for depth in depths]  # [S, depth] each
            by_layer[panel][initializer] = powers[-1]
            ratios[panel][initializer] = np.stack([power[:, 0] - power[:, -1] for power in powers], axis=1)
    largest_loss = max(-ratio[:, -1].mean() for panel in ratios.values() for ratio in panel.values())
    title = f"Through {depths[-1]} layers, gradients shrink by up to {largest_loss:.0f} orders of magnitude"
    layers = np.arange(1, depths[-1] + 1)
    return (
        panels(title, by_layer, layers, 3, xlabel="layer", ylabel="log10 of gradient norm"),
        panels(title, ratios, depths, 3, xlabel="number of layers", ylabel="log10 of first / last gradient norm"),
    )


def draw_accuracies(trained):
    made, axes = figure(f"Test accuracy of {trained[0].config['depth']} layers after training", width=9)
    names = [stack_name(m, m.config["initializer"]).replace(" ", "\n") for m in trained]
    bars(axes, names, [100 * m["accuracy"] for m in trained])
    axes.set(ylabel="test accuracy (%)")
    return made


def figures(measurements):
    before_training, trained = split(measurements)
    by_layer, by_depth = draw_gradients(before_training)
    return {"by_layer": by_layer, "by_depth": by_depth, "trained": draw_accuracies(trained)}


def conclusion(measurements):
    before_training, trained = split(measurements)
    deepest = before_training[0].config["depths"][-1]
    at_first_layer = {
        stack_name(m, initializer): m[f"{initializer} {deepest}"][:, 0].mean()
        for m in before_training
        for initializer in INITIALIZERS
    }
    surviving = {stack for stack, power in at_first_layer.items() if power > VANISHED}
    if not surviving or "sigmoid naive" in surviving:
        confirmed = "no"
    else:
        confirmed = "yes" if surviving >= ONE_REMEDY else "partly"
    gradients = [
        f"{power:.0f} {stack}" for stack, power in at_first_layer.items() if "BN" not in stack or stack in ONE_REMEDY
    ]
    accuracies = [f"{format_mean(m['accuracy'])} {stack_name(m, m.config['initializer'])}" for m in trained]
    return Conclusion(
        confirmed,
        f"log10 of the gradient norm at the first of {deepest} layers (-45: underflow): {', '.join(gradients)}. Test "
        f"accuracy after training, with depth and learning rate chosen for ReLU with He: {', '.join(accuracies)}.",
    )


EXPERIMENT = Experiment("C5", configs, measure, figures, conclusion)
