"""Gradients vanish with depth under sigmoid; ReLU, Xavier or He initialisation and batch normalisation repair it.

**Question.** How much gradient reaches the first layers of an untrained deep network, and which remedy restores it?

**Varied.** Activation, BN and initialisation ("naive": uniform in ±1/√n of n inputs) of 5 to 50 alike 3x3 convolutions.

**Expected.** A sigmoid's slope is at most 1/4, so its gradients vanish; Xavier suits tanh, He ReLU, and BN any of them.
"""

import numpy as np
import optax

from experiments.deep_stack import ACTIVATIONS, INITIALIZERS, DeepStack, gradient_powers
from experiments.experiment import Experiment, Finding, pick, spread
from experiments.plots import bars, figure, panels
from experiments.training import load_images, train

TRAINED = (("sigmoid", "naive", False), ("sigmoid", "Xavier", False), ("tanh", "Xavier", False))
TRAINED += (("ReLU", "naive", False), ("ReLU", "He", False), ("sigmoid", "naive", True), ("ReLU", "naive", True))


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
        stack, optimizer = DeepStack(config["depth"], initializer=config["initializer"], **shape), optax.sgd(0.01, 0.9)
        done = train(stack, images, optimizer, steps=config["steps"], batch_size=64, seeds=seeds, tests=1)
        return {"accuracy": done.test_accuracy}
    x, labels = images.normalize(images.train[0][:64]), images.train[1][:64]
    stacks = {f"{i} {d}": DeepStack(d, initializer=i, **shape) for i in INITIALIZERS for d in config["depths"]}
    return {name: gradient_powers(stack, x, labels, seeds) for name, stack in stacks.items()}


def name(record, initializer):
    return f"{record.config['activation']} {initializer}{' BN' * record.config['normalized']}"


def figures(records):
    at_start, trained = ([r for r in records if field in r.config] for field in ("depths", "steps"))
    depths, norms, left = at_start[0].config["depths"], {}, {}
    for r in at_start:
        panel = r.config["activation"] + (" with BN" if r.config["normalized"] else " without BN")
        by_depth = {i: [r[f"{i} {depth}"] for depth in depths] for i in INITIALIZERS}
        norms[panel] = {i: powers[-1] for i, powers in by_depth.items()}
        left[panel] = {i: np.array([p[:, 0] - p[:, -1] for p in powers]).T for i, powers in by_depth.items()}
    lost = max(-powers[:, -1].mean() for panel in left.values() for powers in panel.values())
    title = f"Over {depths[-1]} layers, gradients shrink by up to {lost:.0f} powers of ten"
    layers = panels(title, norms, np.arange(1, depths[-1] + 1), 3, xlabel="layer", ylabel="log10 of gradient's norm")
    ends = panels(title, left, depths, 3, xlabel="number of layers", ylabel="log10 of first / last gradient")
    made, axes = figure(f"Test accuracy (%) with {trained[0].config['depth']} layers, after training", width=9)
    stacks = {name(r, r.config["initializer"]).replace(" ", "\n"): 100 * r["accuracy"] for r in trained}
    bars(axes, list(stacks), list(stacks.values()))
    return {"by_layer": layers, "by_depth": ends, "trained": made}


def finding(records):
    deepest, alone = records[0].config["depths"][-1], {"ReLU naive", "sigmoid Xavier", "sigmoid He", "sigmoid naive BN"}
    at_start = [(r, i) for r in records if "depths" in r.config for i in INITIALIZERS]
    first = {name(r, i): r[f"{i} {deepest}"][:, 0].mean() for r, i in at_start}
    healthy = {stack for stack, power in first.items() if power > -3} or {"sigmoid naive"}
    told = [f"{power:.0f} {stack}" for stack, power in first.items() if "BN" not in stack or stack in alone]
    learned = [f"{spread(r['accuracy'])} {name(r, r.config['initializer'])}" for r in records if "steps" in r.config]
    return Finding(
        "no" if "sigmoid naive" in healthy else "yes" if alone <= healthy else "partly",
        f"log10 of the gradient's norm at the first of {deepest} layers (-45: none left): {', '.join(told)}. "
        f"Test accuracy after training, at depth and rate chosen for ReLU with He alone: {', '.join(learned)}.",
    )


EXPERIMENT = Experiment("C5", configs, measure, figures, finding)
