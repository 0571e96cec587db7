"""1x1 reductions cut the work of an Inception module.

**Question.** An Inception module lays 1x1, 3x3 and 5x5 convolutions side by side. What do the 1x1 convolutions that
reduce the maps in front of the large kernels (and behind the pooling) save, and what do they cost in accuracy?

**Varied.** The naive and the reduced module (figures 2a and 2b of Szegedy et al., 2014): module 3a by itself, all of
GoogLeNet, and a narrow network of its modules that is trained.

**Expected.** The reduced module has a fraction of the operations and parameters. The naive network grows from module
to module, as its pooling passes on all maps. Accuracy hardly differs.
"""

import jax
import jax.numpy as jnp
import optax

from experiments.experiment import Experiment, is_above, judge, pick, spread
from experiments.networks import module_3a
from experiments.plots import bars, figure
from experiments.training import load_images, time_forward, train
from jaxcnn import create_model
from jaxcnn.analysis import summarize
from jaxcnn.models.googlenet import INCEPTION

FORMS, INPUT, IMAGE = ("reduced", "naive"), (28, 28, 192), (224, 224, 3)


def configs(budget):
    tiny, small = ("fashion_mnist_mini", 4, ["3a"], 32, 2, 1), ("fashion_mnist_mini", 2, ["3a", "4a"], 8, 120, 8)
    values = pick(budget, tiny=tiny, small=small, full=("cifar10", 1, list(INCEPTION), 2, 10_000, 64))
    data = dict(zip(("dataset", "shrink", "modules", "narrower", "steps", "images"), values, strict=True))
    trained = [{"form": form, **data} for form in FORMS]
    return [*trained, {"form": "both", "images": data["images"], "dataset": data["dataset"]}]


def measure(config, seeds):
    if config["form"] == "both":
        modules, names = [module_3a(naive=naive) for naive in (False, True)], ("googlenet", "googlenet_naive")
        sums = [[summarize(m, INPUT) for m in modules], [summarize(create_model(name), IMAGE) for name in names]]
        totals = {name: [[getattr(s, name) / 1e6 for s in two] for two in sums] for name in ("macs", "params")}
        return {**totals, "seconds": time_forward(modules, jnp.ones((config["images"], *INPUT)))}
    rows = {
        name: jax.tree.map(lambda n: max(1, n // config["narrower"]), INCEPTION[name]) for name in config["modules"]
    }
    fields = {"modules": rows, "naive": config["form"] == "naive", "stem": "cifar", "aux_heads": False}
    model, images = create_model("googlenet", 10, **fields), load_images(config["dataset"], shrink=config["shrink"])
    done = train(model, images, optax.adam(1e-3), steps=config["steps"], batch_size=64, seeds=seeds, tests=1)
    return {"accuracy": done.test_accuracy, "params": done.params}


def figures(records):
    accuracy, costs = [100 * r["accuracy"] for r in records[:2]], records[2]
    made, axes = figure(finding(records).text.partition(",")[0], 3, 2)
    parts = (("module 3a", "time an image (ms)", 1e3 * costs["seconds"]), ("GoogLeNet", "test accuracy (%)", accuracy))
    for row, macs, params, (title, unit, last) in zip(axes, costs["macs"], costs["params"], parts, strict=True):
        labels = ("multiply-adds (millions)", "parameters (millions)", unit)
        for axis, values, label, form in zip(
            row, (macs, params, last), labels, ("{:,.0f}", "{:.2f}", "{:.2f}"), strict=True
        ):
            bars(axis, FORMS, list(values), form, color=["C0", "C1"])
            axis.set(title=title, ylabel=label)
    axes[1, 2].set(title="narrow network, trained")
    return {"inception": made}


def finding(records):
    (reduced, naive), costs = (r["accuracy"] for r in records[:2]), records[2]
    (module, whole), (module_params, whole_params) = (costs[n][:, 1] / costs[n][:, 0] for n in ("macs", "params"))
    fast, slow = 1e3 * costs["seconds"]
    text = f"Without the reductions module 3a has {module:.1f} times the multiply-adds, {module_params:.1f} times the "
    text += f"parameters and takes {spread(slow, 'ms', 2)} an image, not {spread(fast, 'ms', 2)}; all of GoogLeNet has "
    text += (
        f"{whole:.1f} and {whole_params:.1f} times as many; test accuracy is {spread(naive)}, not {spread(reduced)}."
    )
    return judge([min(module, whole) > 1, is_above(slow, fast), not is_above(naive, reduced)], text)


EXPERIMENT = Experiment("C8", configs, measure, figures, finding)
