"""Auxiliary classifiers carry gradient to the early layers.

**Question.** How much of the early layers' gradient comes from the two small classifiers half-way up GoogLeNet?

**Varied.** The weight of the auxiliary losses, 0.3 (Szegedy et al., 2014, section 5) or 0, from the same parameters.

**Expected.** The heads are nearer, so that early layers get a larger gradient with them, and it trains better.
"""

import jax
import numpy as np
import optax
from flax.core import FrozenDict

from experiments.experiment import Experiment, is_above, judge, pick, spread
from experiments.loss_gradients import gradients_by_loss
from experiments.plots import curve, figure
from experiments.training import load_images, train
from jaxcnn import create_model
from jaxcnn.models.googlenet import INCEPTION

WEIGHT = 0.3
MODULES = tuple(INCEPTION)


def configs(budget):
    narrowed, steps, batch_size = pick(budget, tiny=(32, 2, 8), small=(8, 200, 32), full=(1, 32_000, 128))
    shrink, dataset = (1, "cifar10") if budget == "full" else (2, "fashion_mnist_mini")
    shared = {"steps": steps, "batch_size": batch_size, "narrowed": narrowed, "shrink": shrink, "dataset": dataset}
    shared["modules"] = MODULES[:3] if budget == "tiny" else MODULES
    return [{"aux_weight": weight, **shared} for weight in (0.0, WEIGHT)]


def measure(config, seeds):
    rows = {name: INCEPTION[name] for name in config["modules"]}
    rows = jax.tree.map(lambda maps: max(1, maps // config["narrowed"]), rows)
    images = load_images(config["dataset"], shrink=config["shrink"], tested=1000)
    model = create_model("googlenet", images.num_classes, stem="cifar", modules=FrozenDict(rows))
    looks = np.linspace(0, config["steps"], 5).round().astype(int).tolist()
    options = {name: config[name] for name in ("steps", "batch_size", "aux_weight")}
    optimizer, probe = (
        optax.sgd(0.01, momentum=0.9),
        gradients_by_loss(model, ["conv1", *(f"inception{name}" for name in rows)], WEIGHT),
    )
    done = train(model, images, optimizer, seeds=seeds, tests=looks, probe=probe, **options)
    return done.values() | done.probes


def figures(records):
    without, with_heads = records
    share = 100 * (with_heads["heads"] / (with_heads["heads"] + with_heads["main"]))[:, 0, 0].mean()
    made, axes = figure(f"{share:.0f} % of the first layer's gradient come from the heads at the start", 3, width=11)
    for kind, label in (("main", "main loss"), ("heads", f"heads, times {WEIGHT}")):
        names = ["conv1", *with_heads.config["modules"]]
        curve(axes[0], names, np.where(with_heads[kind] > 0, with_heads[kind], np.nan)[:, 0], label, marker="o")
    for record, kind, label in ((without, "main", "without heads"), (with_heads, "both", "with heads")):
        curve(axes[1], record["test_steps"], record[kind][:, :, 0], label, marker="o")
        curve(axes[2], record["steps"], record["batch_loss"], f"{label}, {spread(record['final_test_accuracy'])}")
    axes[0].set(title="before training", xlabel="part of the network", ylabel="norm of the gradient", ylim=(0, None))
    axes[0].tick_params(axis="x", labelsize=8)
    axes[1].set(title="first layer, along training", xlabel="update", ylabel="norm of the gradient", ylim=(0, None))
    axes[2].set(title="main loss, and final test accuracy", xlabel="update", ylabel="training loss (nats)")
    _ = [axis.legend(fontsize=8) for axis in axes]
    return {"auxiliary_heads": made}


def finding(records):
    (without, with_heads), accuracy = records, [spread(record["final_test_accuracy"]) for record in records]
    share = (with_heads["heads"] / (with_heads["heads"] + with_heads["main"]))[:, :, 0]
    before, after = without["main"][:, 0, 0], with_heads["both"][:, 0, 0]
    shown = [is_above(share[:, 0], 0.1 + 0 * share[:, 0]), is_above(after, before)]
    return judge(
        shown,
        f"At the first layer {spread(share[:, 0])} of the gradient come from the heads before training and "
        f"{spread(share[:, -1])} after it; its norm is {(after / before).mean():.2f} times as large with them at the "
        f"start. Test accuracy {accuracy[1]} with heads, {accuracy[0]} without.",
    )


EXPERIMENT = Experiment("C9", configs, measure, figures, finding)
