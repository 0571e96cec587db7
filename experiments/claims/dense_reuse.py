"""DenseNet reuses features, and its bottleneck cuts operations.

**Question.** Do layers that see all earlier ones need fewer parameters, and when does a 1x1 bottleneck save work?

**Varied.** Growth rate k of DenseNets, width of ResNet-20; the bottleneck, counted in blocks of the paper's size too.

**Expected.** Better accuracy, weight on early maps too (Huang et al., 2017, figure 5), less work in long blocks.
"""

import numpy as np

from experiments.dense_sources import draw_sources, weight_by_source
from experiments.experiment import Experiment, is_above, judge, pick, spread
from experiments.plots import figure, points
from experiments.training import load_images, momentum_sgd, train
from jaxcnn import create_model
from jaxcnn.analysis import summarize


def configs(budget):
    widths, rates = pick(budget, tiny=((2,), (2,)), small=((4, 6, 10), (4, 6, 10)), full=((8, 16, 32), (12, 24, 36)))
    layers, steps, shrink = pick(budget, tiny=(2, 2, 4), small=(5, 200, 2), full=(12, 32_000, 1))
    dataset = "cifar10" if budget == "full" else "fashion_mnist_mini"
    kinds = [{"width": width} for width in widths] + [{"k": k, "layers": layers, "bottleneck": False} for k in rates]
    trained = [{**kind, "steps": steps, "shrink": shrink} for kind in [*kinds, {**kinds[-1], "bottleneck": True}]]
    return [
        {**config, "dataset": dataset}
        for config in [{"k": 12, "counted": (2, 4) if budget == "tiny" else (4, 8, 16, 32)}, *trained]
    ]


def densenet(layers, k, bottleneck):
    fields = {"growth_rate": k, "stem_width": 2 * k, "bottleneck": bottleneck, "compression": 0.5}
    return create_model("densenet40_k12", block_sizes=(layers,) * 3, **fields)


def measure(config, seeds):
    if "counted" in config:
        nets = [[densenet(layers, config["k"], on) for layers in config["counted"]] for on in (False, True)]
        return {"macs": [[summarize(net, (1, 32, 32, 3)).macs for net in kind] for kind in nets]}
    images, steps = load_images(config["dataset"], shrink=config["shrink"]), config["steps"]
    shape = {name: value for name, value in config.items() if name in ("width", "k", "layers", "bottleneck")}
    model = densenet(**shape) if "k" in shape else create_model("resnet20_cifar", **shape)
    done = train(model, images, momentum_sgd(0.1, steps), steps=steps, batch_size=64, seeds=seeds, tests=1)
    macs = summarize(model, (1, *images.shape)).macs
    used = [weight_by_source(state.params, 3, shape["layers"], shape["k"]) for state in done.states if "k" in shape]
    return {"accuracy": done.test_accuracy, "params": done.params, "macs": macs, "used": used}


def figures(records):
    (counted, *trained), middle = records, len(records) // 2 - 1
    saved, layers = counted["macs"][0] / counted["macs"][1], [str(number) for number in counted.config["counted"]]
    made, (left, right) = figure(f"A bottleneck divides the work by {saved[0]:.2f} to {saved[-1]:.2f}", 2, width=11)
    kinds = ("ResNet-20", trained[:middle]), ("DenseNet", trained[middle:-1]), ("with bottleneck", trained[-1:])
    for label, kind in kinds:
        points(left, [r["params"] for r in kind], [100 * r["accuracy"] for r in kind], label)
    right.plot(layers, counted["macs"].T / 1e6, "o-", label=["3x3 convolutions alone", "with bottleneck"])
    left.set(xscale="log", xlabel="parameters", ylabel="test accuracy (%)")
    right.set(yscale="log", xlabel="layers a block", ylabel="multiply-adds an image (millions)")
    _ = left.legend(loc="upper left"), right.legend()
    return {"dense_reuse": made, "sources": draw_sources(np.mean(trained[-2]["used"], axis=0))}


def finding(records):
    (counted, *trained), middle = records, len(records) // 2 - 1
    (*dense, narrow), residual, saved = trained[middle:], trained[:middle], counted["macs"][0] / counted["macs"][1]
    sizes, curves = np.log([r["params"] for r in residual]), np.array([r["accuracy"] for r in residual]).T
    gaps = [r["accuracy"] - [np.interp(np.log(r["params"]), sizes, curve) for curve in curves] for r in dense]
    gap, last = 100 * np.mean(gaps, axis=0), np.mean(dense[-1]["used"], axis=(0, 1))[-1]
    shown = [is_above(gap, 0 * gap), saved[-1] > 1, last.std() / last.mean() > 0.1 and last[0] > last[-1] / 2]
    return judge(
        shown,
        f"DenseNet less ResNet-20 at equal size: {spread(gap, 'points')}. Bottlenecks divide work by {saved[0]:.2f} to "
        f"{saved[-1]:.2f} ({spread(narrow['accuracy'])} with, {spread(dense[-1]['accuracy'])} without). Sources' "
        f"weights differ by {100 * last.std() / last.mean():.1f} %{'' if shown[2] else ', as drawn: no reuse seen'}.",
    )


EXPERIMENT = Experiment("C12", configs, measure, figures, finding)
