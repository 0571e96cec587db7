"""Gradients vanish with depth under sigmoid; ReLU, Xavier or He initialisation and batch normalisation repair it.

**Question.** How much of the gradient of the loss reaches the first layers of a deep network before it has learned
anything, and which of the remedies restores it?

**Varied.** The activation, the initialisation and batch normalisation (BN) of stacks of 5 to 50 alike 3x3 convolutions.
"Naive" is the old habit of uniform weights in ±1/√n, of n inputs. Some of the stacks are then trained.

**Expected.** A sigmoid's slope is at most 1/4, so its gradient shrinks by a constant factor a layer. Xavier suits tanh,
He suits ReLU; batch normalisation makes the scale of the weights a matter of no importance.
"""

import numpy as np
import optax

from experiments.deep_stack import ACTIVATIONS, INITIALIZERS, DeepStack, gradient_norms
from experiments.experiment import Experiment, Finding, pick, spread
from experiments.plots import bars, curve, figure
from experiments.training import load_images, train

TRAINED = [("sigmoid", "naive", False), ("sigmoid", "Xavier", False), ("tanh", "Xavier", False)]
TRAINED += [("ReLU", "naive", False), ("ReLU", "He", False), ("sigmoid", "naive", True), ("ReLU", "naive", True)]


def configs(budget):
    depths = pick(budget, tiny=(2, 4), small=(5, 10, 20, 50), full=(5, 10, 20, 30, 40, 50))
    depth, steps, shrink = pick(budget, tiny=(2, 2, 4), small=(10, 150, 2), full=(20, 5000, 1))
    fields, few = ("activation", "initializer", "normalized"), 1 if budget == "tiny" else None
    gradients = [{"activation": a, "normalized": n, "depths": depths} for n in (False, True) for a in ACTIVATIONS]
    trained = [{**dict(zip(fields, stack, strict=True)), "depth": depth, "steps": steps} for stack in TRAINED]
    return [{**config, "shrink": shrink, "dataset": "fashion_mnist_mini"} for config in gradients[:few] + trained[:few]]


def measure(config, seeds):
    images = load_images(config["dataset"], shrink=config["shrink"])
    shape = {"activation": config["activation"], "normalized": config["normalized"]}
    if "steps" in config:
        stack = DeepStack(config["depth"], initializer=config["initializer"], **shape)
        optimizer = optax.sgd(0.01, momentum=0.9)
        done = train(stack, images, optimizer, steps=config["steps"], batch_size=64, seeds=seeds, tests=1)
        return {"accuracy": done.test_accuracy}
    x, labels = images.normalize(images.train[0][:64]), images.train[1][:64]
    stacks = {(i, d): DeepStack(d, initializer=i, **shape) for i in INITIALIZERS for d in config["depths"]}
    return {f"{i} {d}": gradient_norms(stack, x, labels, seeds) for (i, d), stack in stacks.items()}


def ratios(record, initializer):
    """Gradient of the first layer over the last one's, of each seed, at each depth `[depth, S]`."""
    norms = [np.maximum(record[f"{initializer} {depth}"], 1e-45) for depth in record.config["depths"]]
    return np.array([of_depth[:, 0] / of_depth[:, -1] for of_depth in norms])


def figures(records):
    measured, trained = ([r for r in records if name in r.config] for name in ("depths", "steps"))
    depths, rows = measured[0].config["depths"], -(-len(measured) // 3)
    title = f"Powers of ten between the gradients of stacks of {depths[-1]} layers before training"
    grid, layers = figure(title, len(measured) // rows, rows, width=12, sharey=True, squeeze=False)
    made, axes = figure("Gradient left at the first layer, and which stacks learn", 3, width=15)
    for record, panel in zip(measured, layers.flat, strict=True):
        side, activation = axes[int(record.config["normalized"])], record.config["activation"]
        for initializer, style in zip(INITIALIZERS, (":", "--", "-"), strict=True):
            norms = np.log10(np.maximum(record[f"{initializer} {depths[-1]}"], 1e-45))
            curve(panel, np.arange(1, depths[-1] + 1), norms, initializer, ls=style)
            left, color = np.log10(ratios(record, initializer)).T, f"C{list(ACTIVATIONS).index(activation)}"
            curve(side, depths, left, f"{activation}, {initializer}", ls=style, color=color)
        title = "with BN" if record.config["normalized"] else "without BN"
        panel.set(title=f"{activation} {title}", xlabel="layer", ylabel="log10 of the gradient's norm")
        panel.legend()
        side.set(title=title, xlabel="layers", ylabel="log10 of first / last layer's gradient")
        side.legend(fontsize=7)
    names = [f"{r.config['activation']}\n{r.config['initializer']}{', BN' * r.config['normalized']}" for r in trained]
    bars(axes[2], names, [100 * r["accuracy"] for r in trained])
    axes[2].set(title=f"{trained[0].config['depth']} layers, trained", ylabel="test accuracy (%)")
    axes[2].tick_params(axis="x", labelsize=7)
    return {"by_layer": grid, "by_depth": made}


def finding(records):
    first, depth = {}, records[0].config["depths"][-1]
    for record in (r for r in records if "depths" in r.config):
        for i in INITIALIZERS:
            name = f"{record.config['activation']} {i}{' BN' * record.config['normalized']}"
            first[name] = 10 ** np.log10(np.maximum(record[f"{i} {depth}"][:, 0], 1e-45)).mean()
    alone = ("ReLU naive", "sigmoid Xavier", "sigmoid He", "sigmoid naive BN")
    told = [name for name in ("sigmoid naive", *alone, "tanh Xavier", "ReLU He") if name in first]
    repaired, vanished = [name for name in told[1:] if first[name] > 1e-3], first["sigmoid naive"] < 1e-3
    learned = [
        f"{spread(r['accuracy'])} {r.config['activation']} {r.config['initializer']}{' BN' * r.config['normalized']}"
        for r in records
        if "steps" in r.config
    ]
    return Finding(
        "yes" if vanished and set(alone) <= set(repaired) else "partly" if vanished and repaired else "no",
        f"Norm of the gradient at the first of {depth} layers: {', '.join(f'{first[n]:.0e} {n}' for n in told)} "
        f"(1e-45: none). Test accuracy of trained stacks: {', '.join(learned)}.",
    )


EXPERIMENT = Experiment("C5", configs, measure, figures, finding)
