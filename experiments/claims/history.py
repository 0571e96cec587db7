"""The line from LeNet-5 to DenseNet: better accuracy for parameters, operations and time.

**Question.** What did each architecture of the historical line buy, and at what price?

**Varied.** LeNet-5 (1998), AlexNet (2012), VGG-11 with batch normalisation (2014), GoogLeNet with batch normalisation
(2014), ResNet-18 (2015) and DenseNet-BC (2017), on one data set, with one optimizer and equally many updates. On a CPU
all but LeNet-5 are narrowed, to an eighth (GoogLeNet) or a quarter of their widths, and DenseNet has three blocks of
three layers; AlexNet, whose strides need larger images, sees them enlarged three times.

**Expected.** Accuracy grows along the line. Parameters do not: the fully connected layers of AlexNet hold most of its
own, and GoogLeNet, ResNet and DenseNet do without. Operations and time tell another story than parameters do.
"""

import jax
import jax.numpy as jnp
import optax

from experiments.experiment import Experiment, is_above, judge, pick, spread
from experiments.networks import of_the_historical_line
from experiments.plots import figure, points
from experiments.training import load_images, train
from jaxcnn.analysis import summarize
from jaxcnn.measure import time_step

LINE = ("lenet5", "alexnet", "vgg11_bn", "googlenet_bn", "resnet18", "densenet121")


def configs(budget):
    names, steps, by = pick(budget, tiny=(LINE[:2], 3, 16), small=(LINE, 350, 4), full=(LINE, 20_000, 1))
    dataset = pick(budget, tiny="fashion_mnist_mini", small="fashion_mnist_mini", full="cifar10")
    return [{"model": name, "steps": steps, "narrowed": by, "dataset": dataset} for name in names]


def measure(config, seeds):
    images, model = load_images(config["dataset"]), of_the_historical_line(config["model"], config["narrowed"])
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, config["steps"]))
    done = train(model, images, optimizer, steps=config["steps"], batch_size=32, seeds=seeds, tests=1)
    variables = {"params": done.states[0].params, "batch_stats": done.states[0].batch_stats}
    batch = jnp.zeros((100, *images.shape))
    timing = time_step(jax.jit(lambda x: model.apply(variables, x, train=False)), batch, steps=5)
    macs = summarize(model, images.shape).macs
    return {"accuracy": done.test_accuracy, "params": done.params, "macs": macs, "seconds": timing.median / len(batch)}


def figures(records):
    best, first = max(records, key=lambda r: r["accuracy"].mean()), records[0]
    price = best.values["macs"] / first.values["macs"]
    title = (
        f"{best.config['model']} is the most accurate, at {price:.0f} times the operations of {first.config['model']}"
    )
    made, panels = figure(title, 3, sharey=True)
    for axes, name, unit, label in zip(panels, ("params", "macs", "seconds"), (1, 1e6, 1e-6), PRICES, strict=True):
        for r in records:
            points(axes, [r[name] / unit], [100 * r["accuracy"]], r.config["model"])
        axes.set(xscale="log", xlabel=label)
        axes.xaxis.set_minor_formatter("")
    panels[0].set(ylabel="test accuracy (%)")
    panels[-1].legend(fontsize=8, loc="lower right")
    return {"history": made}


def finding(records):
    first, *later = records
    ahead = [is_above(r["accuracy"], first["accuracy"]) for r in later]
    rows = [
        f"{r.config['model']} {spread(r['accuracy'])} ({r.values['params']:,} parameters, {r.values['macs'] / 1e6:.1f} "
        f"million multiply-adds, {r.values['seconds'] * 1e6:.0f} µs an image)"
        for r in records
    ]
    return judge(ahead, f"In the order of their years: {'; '.join(rows)}.")


PRICES = ("parameters", "multiply-adds an image (millions)", "time of an image, 100 at once (µs)")
EXPERIMENT = Experiment("C13", configs, measure, figures, finding)
