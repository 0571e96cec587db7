"""Auxiliary classifiers carry gradient to the early layers.

**Question.** How much of the early layers' gradient comes from the two auxiliary classifiers of GoogLeNet?

**Varied.** The weight of the auxiliary losses, 0.3 (Szegedy et al., 2014, section 5) or 0, with equal initial
parameters.

**Expected.** The auxiliary heads are closer to the early layers, so that these layers get a larger gradient and the
network trains better.
"""

import jax
import numpy as np
import optax
from flax.core import FrozenDict

from experiments.experiment import Experiment, conclude, format_mean, is_above, pick
from experiments.loss_gradients import gradients_by_loss
from experiments.plots import curve, figure
from experiments.training import load_images, train
from jaxcnn import create_model
from jaxcnn.models.googlenet import INCEPTION

WEIGHT = 0.3
MODULES = tuple(INCEPTION)
# The claim holds if the heads contribute more than this fraction of the first layer's gradient.
NOTABLE = 0.1


def configs(budget):
    settings = {
        "steps": pick(budget, tiny=2, small=200, full=32_000),
        "batch_size": pick(budget, tiny=8, small=32, full=128),
        "narrowed": pick(budget, tiny=32, small=8, full=1),
        "shrink": pick(budget, tiny=2, small=2, full=1),
        "dataset": pick(budget, tiny="fashion_mnist_mini", small="fashion_mnist_mini", full="cifar10"),
        "modules": pick(budget, tiny=MODULES[:3], small=MODULES, full=MODULES),
    }
    return [{"aux_weight": weight, **settings} for weight in (0.0, WEIGHT)]


def measure(config, seeds):
    def narrowed(channels):
        return max(1, channels // config["narrowed"])

    modules = {name: jax.tree.map(narrowed, INCEPTION[name]) for name in config["modules"]}
    images = load_images(config["dataset"], shrink=config["shrink"], tested=1000)
    model = create_model("googlenet", images.num_classes, stem="cifar", modules=FrozenDict(modules))
    parts = ["conv1", *(f"inception{name}" for name in modules)]
    done = train(
        model,
        images,
        optax.sgd(0.01, momentum=0.9),
        steps=config["steps"],
        batch_size=config["batch_size"],
        seeds=seeds,
        tests=np.linspace(0, config["steps"], 5).round().astype(int).tolist(),
        probe=gradients_by_loss(model, parts, WEIGHT),
        aux_weight=config["aux_weight"],
    )
    return done.values() | done.probes


def fraction_from_heads(measurement):
    """Return the fraction of the first layer's gradient that comes from the heads, `[S, T]`."""
    heads, main = measurement["heads"], measurement["main"]
    return (heads / (heads + main))[:, :, 0]


def figures(measurements):
    without, with_heads = measurements
    fraction = fraction_from_heads(with_heads)[:, 0].mean()
    title = f"Before training, {100 * fraction:.0f} % of the first layer's gradient come from the auxiliary heads"
    made, (by_part, by_step, loss) = figure(title, 3, width=11)
    parts = ["conv1", *with_heads.config["modules"]]
    for name, label in (("main", "main loss"), ("heads", f"auxiliary losses, times {WEIGHT}")):
        norms = with_heads[name][:, 0]
        curve(by_part, parts, np.where(norms > 0, norms, np.nan), label, marker="o")
    for measurement, name, label in ((without, "main", "without heads"), (with_heads, "both", "with heads")):
        accuracy = format_mean(measurement["final_test_accuracy"])
        curve(by_step, measurement["test_steps"], measurement[name][:, :, 0], label, marker="o")
        curve(loss, measurement["steps"], measurement["batch_loss"], f"{label}, {accuracy}")
    by_part.set(title="before training", xlabel="part of the network", ylabel="gradient norm", ylim=(0, None))
    by_part.tick_params(axis="x", labelsize=8)
    by_step.set(title="first layer, during training", xlabel="step", ylabel="gradient norm", ylim=(0, None))
    loss.set(title="main loss, and final test accuracy", xlabel="step", ylabel="training loss (nats)")
    for axis in (by_part, by_step, loss):
        axis.legend(fontsize=8)
    return {"auxiliary_heads": made}


def conclusion(measurements):
    without, with_heads = measurements
    fraction = fraction_from_heads(with_heads)
    norm_without, norm_with = without["main"][:, 0, 0], with_heads["both"][:, 0, 0]
    threshold = np.full_like(fraction[:, 0], NOTABLE)
    return conclude(
        [is_above(fraction[:, 0], threshold), is_above(norm_with, norm_without)],
        f"Of the first layer's gradient, {format_mean(fraction[:, 0])} come from the heads before training and "
        f"{format_mean(fraction[:, -1])} after it. Before training the heads make its norm "
        f"{(norm_with / norm_without).mean():.2f} times as large. Test accuracy is "
        f"{format_mean(with_heads['final_test_accuracy'])} with heads and "
        f"{format_mean(without['final_test_accuracy'])} without.",
    )


EXPERIMENT = Experiment("C9", configs, measure, figures, conclusion)
