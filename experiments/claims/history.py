"""From LeNet-5 to DenseNet: better accuracy for the parameters, the operations and the time.

**Question.** What did each architecture of this line gain, and at what cost?

**Varied.** LeNet-5 (1998), AlexNet (2012), VGG-11 with batch normalization (2014), GoogLeNet with batch normalization
(2014), ResNet-18 (2015) and DenseNet-BC (2017), on one dataset, with the same optimizer and number of steps. On a CPU
all but LeNet-5 are narrowed, GoogLeNet to an eighth and the others to a quarter of their width, and DenseNet has three
blocks of three layers. AlexNet, whose strides need larger images, gets images enlarged three times.

**Expected.** Accuracy increases along the line. The number of parameters does not: most of AlexNet's are in its fully
connected layers, which GoogLeNet, ResNet and DenseNet do without. Operations and time rank the models differently.
"""

import jax
import jax.numpy as jnp
import optax

from experiments.experiment import Experiment, conclude, format_mean, is_above, pick
from experiments.networks import historical_model
from experiments.plots import figure, points
from experiments.training import load_images, train
from jaxcnn.analysis import summarize
from jaxcnn.measure import time_step

MODELS = ("lenet5", "alexnet", "vgg11_bn", "googlenet_bn", "resnet18", "densenet121")
# (name of the value, unit, axis label)
COSTS = (
    ("params", 1, "parameters"),
    ("macs", 1e6, "multiply-adds per image (millions)"),
    ("seconds", 1e-6, "time per image, batch of 100 (µs)"),
)


def configs(budget):
    models = MODELS[:2] if budget == "tiny" else MODELS
    settings = {
        "steps": pick(budget, tiny=3, small=350, full=20_000),
        "narrowed": pick(budget, tiny=16, small=4, full=1),
        "dataset": pick(budget, tiny="fashion_mnist_mini", small="fashion_mnist_mini", full="cifar10"),
    }
    return [{"model": name, **settings} for name in models]


def measure(config, seeds):
    images = load_images(config["dataset"])
    model = historical_model(config["model"], config["narrowed"])
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, config["steps"]))
    done = train(model, images, optimizer, steps=config["steps"], batch_size=32, seeds=seeds, tests=1)
    variables = {"params": done.states[0].params, "batch_stats": done.states[0].batch_stats}
    batch = jnp.zeros((100, *images.shape))
    timing = time_step(jax.jit(lambda x: model.apply(variables, x, train=False)), batch, steps=5)
    return {
        "accuracy": done.test_accuracy,
        "params": done.params,
        "macs": summarize(model, images.shape).macs,
        "seconds": timing.median / len(batch),
    }


def figures(measurements):
    first = measurements[0]
    best = max(measurements, key=lambda m: m["accuracy"].mean())
    cost = best.values["macs"] / first.values["macs"]
    title = f"{best.config['model']} is most accurate, at {cost:.0f} times the operations of {first.config['model']}"
    made, panels = figure(title, 3, sharey=True)
    for axes, (name, unit, label) in zip(panels, COSTS, strict=True):
        for m in measurements:
            points(axes, [m[name] / unit], [100 * m["accuracy"]], m.config["model"])
        axes.set(xscale="log", xlabel=label)
        axes.xaxis.set_minor_formatter("")
    panels[0].set(ylabel="test accuracy (%)")
    panels[-1].legend(fontsize=8, loc="lower right")
    return {"history": made}


def describe(measurement):
    values = measurement.values
    return (
        f"{measurement.config['model']} {format_mean(measurement['accuracy'])} ({values['params']:,} parameters, "
        f"{values['macs'] / 1e6:.1f} million multiply-adds, {values['seconds'] * 1e6:.0f} µs per image)"
    )


def conclusion(measurements):
    first, *later = measurements
    parts = [is_above(m["accuracy"], first["accuracy"]) for m in later]
    return conclude(parts, f"Test accuracy in order of publication: {'; '.join(map(describe, measurements))}.")


EXPERIMENT = Experiment("C13", configs, measure, figures, conclusion)
