"""Too large or too small a learning rate misses the optimum.

**Question.** How much does the outcome of training hang on the learning rate, and what goes wrong on either side?

**Varied.** The learning rate of plain stochastic gradient descent on mini-batches of 64, over five orders of magnitude,
with LeNet-5 and everything else the same.

**Expected.** With small rates the loss is still on its way down when training ends; with large ones it jumps about or
grows without bounds; between them is a range of a factor of ten or so that works.
"""

import numpy as np
import optax

from experiments.experiment import Experiment, is_above, judge, pick, spread
from experiments.plots import curve, figure, points
from experiments.training import load_images, train
from jaxcnn import create_model

RATES = (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def configs(budget):
    rates, steps = pick(budget, tiny=(RATES[::3], 4), small=(RATES, 600), full=(RATES, 10_000))
    dataset = pick(budget, tiny="fashion_mnist_mini", small="fashion_mnist_mini", full="cifar10")
    return [{"learning_rate": rate, "steps": steps, "batch_size": 64, "dataset": dataset} for rate in rates]


def measure(config, seeds):
    images, model = load_images(config["dataset"]), create_model("lenet5")
    optimizer = optax.sgd(config["learning_rate"])
    return train(
        model, images, optimizer, steps=config["steps"], batch_size=config["batch_size"], seeds=seeds, tests=3
    ).values()


def figures(records):
    best = max(records, key=lambda r: r["final_test_accuracy"].mean())
    made, (left, right) = figure(f"LeNet-5 learns best at {best.config['learning_rate']:g}, and not at all far off", 2)
    for record in records:
        loss, rate = record["batch_loss"], record.config["learning_rate"]
        curve(left, record["steps"], loss, f"{rate:g}" if np.isfinite(loss[:, -1]).all() else f"{rate:g} (diverges)")
    left.set(xlabel="update", ylabel="training loss (nats)", ylim=(0, 3.6))
    left.legend(title="learning rate", ncols=3, fontsize=8, loc="upper center")
    rates = [record.config["learning_rate"] for record in records]
    points(right, rates, [100 * record["final_test_accuracy"] for record in records])
    right.set(xscale="log", xlabel="learning rate", ylabel="test accuracy (%)")
    return {"learning_rate": made}


def finding(records):
    accuracy = [record["final_test_accuracy"] for record in records]
    rates = [record.config["learning_rate"] for record in records]
    best = int(np.argmax([a.mean() for a in accuracy]))
    return judge(
        [is_above(accuracy[best], accuracy[side]) for side in (0, -1)],
        f"After {records[0].config['steps']} updates: {spread(accuracy[0])} on the test images at {rates[0]:g}, "
        f"{spread(accuracy[best])} at {rates[best]:g}, {spread(accuracy[-1])} at {rates[-1]:g}.",
    )


EXPERIMENT = Experiment("C3", configs, measure, figures, finding)
