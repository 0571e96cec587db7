"""DenseNet reuses features, and its bottleneck reduces the number of operations.

**Question.** Do layers that see the output of all earlier layers need fewer parameters? When does a 1x1 bottleneck
reduce the operations?

**Varied.** The growth rate k of DenseNets and the width of ResNet-20; the bottleneck, for which operations are also
counted in blocks of the paper's size.

**Expected.** DenseNets are more accurate, have weight on early feature maps too (Huang et al., 2017, figure 5), and
need fewer operations in long blocks.
"""

import numpy as np

from experiments.dense_sources import draw_sources, weight_by_source
from experiments.experiment import Experiment, conclude, format_mean, is_above, pick
from experiments.plots import figure, points
from experiments.training import load_images, momentum_sgd, train
from jaxcnn import create_model
from jaxcnn.analysis import summarize

BLOCKS = 3


def configs(budget):
    data = {"dataset": pick(budget, tiny="fashion_mnist_mini", small="fashion_mnist_mini", full="cifar10")}
    training = {
        "steps": pick(budget, tiny=2, small=200, full=32_000),
        "shrink": pick(budget, tiny=4, small=2, full=1),
        **data,
    }
    widths = pick(budget, tiny=(2,), small=(4, 6, 10), full=(8, 16, 32))
    growth_rates = pick(budget, tiny=(2,), small=(4, 6, 10), full=(12, 24, 36))
    layers = pick(budget, tiny=2, small=5, full=12)
    counted = {"k": 12, "counted": pick(budget, tiny=(2, 4), small=(4, 8, 16, 32), full=(4, 8, 16, 32)), **data}
    residual = [{"width": width, **training} for width in widths]
    dense = [{"k": k, "layers": layers, "bottleneck": False, **training} for k in growth_rates]
    return [counted, *residual, *dense, {**dense[-1], "bottleneck": True}]


def densenet(layers, k, bottleneck):
    return create_model(
        "densenet40_k12",
        block_sizes=(layers,) * BLOCKS,
        growth_rate=k,
        stem_width=2 * k,
        bottleneck=bottleneck,
        compression=0.5,
    )


def measure(config, seeds):
    if "counted" in config:
        return count_operations(config["k"], config["counted"])
    if "k" in config:
        model = densenet(config["layers"], config["k"], config["bottleneck"])
    else:
        model = create_model("resnet20_cifar", width=config["width"])
    images, steps = load_images(config["dataset"], shrink=config["shrink"]), config["steps"]
    done = train(model, images, momentum_sgd(0.1, steps), steps=steps, batch_size=64, seeds=seeds, tests=1)
    used = []
    if "k" in config:
        used = [weight_by_source(state.params, BLOCKS, config["layers"], config["k"]) for state in done.states]
    macs = summarize(model, (1, *images.shape)).macs
    return {"accuracy": done.test_accuracy, "params": done.params, "macs": macs, "used": used}


def count_operations(k, block_sizes):
    """Return the multiply-adds of DenseNets without and with bottleneck, `[2, len(block_sizes)]`."""
    return {
        "macs": [
            [summarize(densenet(layers, k, bottleneck), (1, 32, 32, 3)).macs for layers in block_sizes]
            for bottleneck in (False, True)
        ]
    }


def split(measurements):
    """Return the counted operations, the ResNets, the DenseNets by growth rate, and the DenseNet with bottleneck."""
    counted, *trained = measurements
    residual = [m for m in trained if "width" in m.config]
    *dense, with_bottleneck = [m for m in trained if "k" in m.config]
    return counted, residual, dense, with_bottleneck


def operations_saved(counted):
    """Return the ratio of operations without to with bottleneck, for each block size."""
    without, with_bottleneck = counted["macs"]
    return without / with_bottleneck


def figures(measurements):
    counted, residual, dense, with_bottleneck = split(measurements)
    saved = operations_saved(counted)
    sizes = [str(layers) for layers in counted.config["counted"]]
    title = f"A bottleneck divides the operations by {saved[0]:.2f} in short blocks, by {saved[-1]:.2f} in long ones"
    made, (left, right) = figure(title, 2, width=11)
    for label, of_kind in (("ResNet-20", residual), ("DenseNet", dense), ("with bottleneck", [with_bottleneck])):
        points(left, [m["params"] for m in of_kind], [100 * m["accuracy"] for m in of_kind], label)
    right.plot(sizes, counted["macs"].T / 1e6, "o-", label=["3x3 convolutions alone", "with bottleneck"])
    left.set(xscale="log", xlabel="parameters", ylabel="test accuracy (%)")
    right.set(yscale="log", xlabel="layers per block", ylabel="multiply-adds per image (millions)")
    left.legend(loc="upper left")
    right.legend()
    weights = np.mean(dense[-1]["used"], axis=0)
    return {"dense_reuse": made, "sources": draw_sources(weights)}


def advantage_at_equal_size(dense, residual):
    """Return the accuracy of DenseNets minus that of ResNets of the same size, in points, mean over sizes, `[S]`.

    The accuracy of ResNets is interpolated linearly in the logarithm of the number of parameters.
    """
    sizes = np.log([m["params"] for m in residual])
    accuracies = np.array([m["accuracy"] for m in residual]).T  # [S, width]
    gaps = []
    for m in dense:
        size = np.log(m["params"])
        gaps.append(m["accuracy"] - [np.interp(size, sizes, of_seed) for of_seed in accuracies])
    return 100 * np.mean(gaps, axis=0)


def conclusion(measurements):
    counted, residual, dense, with_bottleneck = split(measurements)
    advantage = advantage_at_equal_size(dense, residual)
    saved = operations_saved(counted)
    weights = np.mean(dense[-1]["used"], axis=(0, 1))[-1]  # of the last layers, by source
    variation = weights.std() / weights.mean()
    # Initial weights do not depend on the source. Only a clear deviation from that shows that training chose sources.
    reuses_features = variation > 0.1 and weights[0] > weights[-1] / 2
    return conclude(
        [is_above(advantage, np.zeros_like(advantage)), saved[-1] > 1, reuses_features],
        f"DenseNet minus ResNet-20 at equal size: {format_mean(advantage, 'points')}. A bottleneck divides the "
        f"operations by {saved[0]:.2f} to {saved[-1]:.2f} (test accuracy {format_mean(with_bottleneck['accuracy'])} "
        f"with it, {format_mean(dense[-1]['accuracy'])} without). The last layers' weights on their sources vary by "
        f"{100 * variation:.1f} %{'' if reuses_features else ', as at initialization: no sign of reuse'}.",
    )


EXPERIMENT = Experiment("C12", configs, measure, figures, conclusion)
