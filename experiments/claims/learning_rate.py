"""A learning rate that is too large or too small misses the optimum.

**Question.** How much does the result of training depend on the learning rate, and what fails at either extreme?

**Varied.** The learning rate of plain stochastic gradient descent with a batch size of 64, over five orders of
magnitude, with LeNet-5 and everything else fixed.

**Expected.** At small rates the loss is still decreasing when training ends. At large rates it oscillates or diverges.
In between, a range of about a factor of ten works.
"""

import numpy as np
import optax

from experiments.experiment import Experiment, conclude, format_mean, is_above, pick
from experiments.plots import curve, figure, points
from experiments.training import load_images, train
from jaxcnn import create_model

RATES = (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def configs(budget):
    rates = RATES[::3] if budget == "tiny" else RATES
    settings = {
        "steps": pick(budget, tiny=4, small=600, full=10_000),
        "batch_size": 64,
        "dataset": pick(budget, tiny="fashion_mnist_mini", small="fashion_mnist_mini", full="cifar10"),
    }
    return [{"learning_rate": rate, **settings} for rate in rates]


def measure(config, seeds):
    images = load_images(config["dataset"])
    optimizer = optax.sgd(config["learning_rate"])
    steps, batch_size = config["steps"], config["batch_size"]
    done = train(create_model("lenet5"), images, optimizer, steps=steps, batch_size=batch_size, seeds=seeds, tests=3)
    return done.values()


def figures(measurements):
    best = max(measurements, key=lambda m: m["final_test_accuracy"].mean())
    title = f"LeNet-5 learns best at a learning rate of {best.config['learning_rate']:g}"
    made, (left, right) = figure(title, 2)
    for m in measurements:
        label = f"{m.config['learning_rate']:g}"
        if not np.isfinite(m["batch_loss"][:, -1]).all():
            label += " (diverges)"
        curve(left, m["steps"], m["batch_loss"], label)
    left.set(xlabel="step", ylabel="training loss (nats)", ylim=(0, 3.6))
    left.legend(title="learning rate", ncols=3, fontsize=8, loc="upper center")
    rates = [m.config["learning_rate"] for m in measurements]
    points(right, rates, [100 * m["final_test_accuracy"] for m in measurements])
    right.set(xscale="log", xlabel="learning rate", ylabel="test accuracy (%)")
    return {"learning_rate": made}


def conclusion(measurements):
    smallest, largest = measurements[0], measurements[-1]
    best = max(measurements, key=lambda m: m["final_test_accuracy"].mean())
    parts = [is_above(best["final_test_accuracy"], m["final_test_accuracy"]) for m in (smallest, largest)]
    accuracies = [
        f"{format_mean(m['final_test_accuracy'])} at {m.config['learning_rate']:g}" for m in (smallest, best, largest)
    ]
    steps = best.config["steps"]
    return conclude(parts, f"Test accuracy after {steps} steps, by learning rate: {', '.join(accuracies)}.")


EXPERIMENT = Experiment("C3", configs, measure, figures, conclusion)
