"""1x1 reductions cut the cost of an Inception module.

**Question.** An Inception module applies 1x1, 3x3 and 5x5 convolutions in parallel. What do the 1x1 convolutions save
that reduce the channels before the large kernels and after the pooling, and what do they cost in accuracy?

**Varied.** The naive and the reduced module (Szegedy et al., 2014, figures 2a and 2b): module 3a alone, all of
GoogLeNet, and a narrow network of such modules that is trained.

**Expected.** The reduced module has a fraction of the operations and parameters. The naive network grows from module
to module, because its pooling branch passes on all channels. Accuracy is nearly the same.
"""

import jax
import jax.numpy as jnp
import optax

from experiments.experiment import Experiment, conclude, format_mean, is_above, pick
from experiments.networks import module_3a
from experiments.plots import bars, figure
from experiments.training import load_images, time_forward, train
from jaxcnn import create_model
from jaxcnn.analysis import summarize
from jaxcnn.models.googlenet import INCEPTION

FORMS = ("reduced", "naive")
MODULE_INPUT, IMAGE = (28, 28, 192), (224, 224, 3)


def configs(budget):
    data = {
        "images": pick(budget, tiny=1, small=8, full=64),
        "dataset": pick(budget, tiny="fashion_mnist_mini", small="fashion_mnist_mini", full="cifar10"),
    }
    training = {
        "shrink": pick(budget, tiny=4, small=2, full=1),
        "modules": pick(budget, tiny=["3a"], small=["3a", "4a"], full=list(INCEPTION)),
        "narrower": pick(budget, tiny=32, small=8, full=2),
        "steps": pick(budget, tiny=2, small=120, full=10_000),
    }
    return [*({"form": form, **training, **data} for form in FORMS), {"form": "both", **data}]


def measure(config, seeds):
    if config["form"] == "both":
        return measure_costs(config["images"])
    return measure_accuracy(config, seeds)


def measure_costs(images):
    """Return costs of both forms of module 3a and of GoogLeNet: "macs" and "params" in millions, `[network, form]`."""
    modules = [module_3a(naive=naive) for naive in (False, True)]
    networks = [create_model(name) for name in ("googlenet", "googlenet_naive")]
    summaries = [[summarize(module, MODULE_INPUT) for module in modules]]
    summaries.append([summarize(model, IMAGE) for model in networks])
    return {
        "macs": [[summary.macs / 1e6 for summary in forms] for forms in summaries],
        "params": [[summary.params / 1e6 for summary in forms] for forms in summaries],
        "seconds": time_forward(modules, jnp.ones((images, *MODULE_INPUT))),
    }


def measure_accuracy(config, seeds):
    def narrowed(channels):
        return max(1, channels // config["narrower"])

    modules = {name: jax.tree.map(narrowed, INCEPTION[name]) for name in config["modules"]}
    is_naive = config["form"] == "naive"
    model = create_model("googlenet", 10, modules=modules, naive=is_naive, stem="cifar", aux_heads=False)
    images = load_images(config["dataset"], shrink=config["shrink"])
    done = train(model, images, optax.adam(1e-3), steps=config["steps"], batch_size=64, seeds=seeds, tests=1)
    return {"accuracy": done.test_accuracy, "params": done.params}


def naive_over_reduced(costs, name):
    """Return the ratio of a cost of the naive form to that of the reduced form, for module 3a and for GoogLeNet."""
    return costs[name][:, 1] / costs[name][:, 0]


def figures(measurements):
    reduced, naive, costs = measurements
    ratio, _ = naive_over_reduced(costs, "macs")
    made, axes = figure(f"Without the reductions, module 3a has {ratio:.1f} times the multiply-adds", 3, 2)
    for row, title in enumerate(("module 3a", "GoogLeNet")):
        draw_pair(axes[row, 0], title, "multiply-adds (millions)", costs["macs"][row], "{:,.0f}")
        draw_pair(axes[row, 1], title, "parameters (millions)", costs["params"][row], "{:.2f}")
    draw_pair(axes[0, 2], "module 3a", "time per image (ms)", 1e3 * costs["seconds"], "{:.2f}")
    accuracies = [100 * reduced["accuracy"], 100 * naive["accuracy"]]
    draw_pair(axes[1, 2], "narrow network, trained", "test accuracy (%)", accuracies, "{:.2f}")
    return {"inception": made}


def draw_pair(axis, title, unit, values, label):
    """Draw one bar for each form."""
    bars(axis, FORMS, list(values), label, color=["C0", "C1"])
    axis.set(title=title, ylabel=unit)


def conclusion(measurements):
    reduced, naive, costs = measurements
    module_macs, network_macs = naive_over_reduced(costs, "macs")
    module_params, network_params = naive_over_reduced(costs, "params")
    fast, slow = 1e3 * costs["seconds"]
    keeps_accuracy = not is_above(naive["accuracy"], reduced["accuracy"])
    return conclude(
        [min(module_macs, network_macs) > 1, is_above(slow, fast), keeps_accuracy],
        f"Without reductions, module 3a has {module_macs:.1f} times the multiply-adds and {module_params:.1f} times "
        f"the parameters, and takes {format_mean(slow, 'ms', 2)} per image instead of {format_mean(fast, 'ms', 2)}. "
        f"GoogLeNet has {network_macs:.1f} times the multiply-adds and {network_params:.1f} times the parameters. Test "
        f"accuracy is {format_mean(naive['accuracy'])} without and {format_mean(reduced['accuracy'])} with reductions.",
    )


EXPERIMENT = Experiment("C8", configs, measure, figures, conclusion)
