"""Pooling widens the receptive field.

**Question.** How large a part of the image does one unit see, by depth, with pooling and without?

**Varied.** Up to six 3x3 convolutions with He's initial kernels, with 2x2 max pooling behind every second, or none.

**Expected.** Each layer adds 2 pixels without pooling, and with it as many more as poolings have doubled the stride. A
unit's gradient with respect to the image is 0 outside of the field that is computed from kernels and strides; within
it, the middle matters most: the effective field (Luo et al., 2016) is far smaller.
"""

import numpy as np
from matplotlib.patches import Rectangle

from experiments.effective_field import effective_width, extent, pixel_gradient
from experiments.experiment import Experiment, is_above, judge, pick, spread
from experiments.plots import figure, points
from experiments.training import load_images
from jaxcnn.analysis import summarize
from jaxcnn.layers import Conv, MaxPool, ReLU, Sequential, initializers

SIZE = 56


def configs(budget):
    dataset, depth = "fashion_mnist_mini", pick(budget, tiny=2, small=6, full=6)
    return [{"pooling": pooling, "depth": depth, "dataset": dataset} for pooling in (False, True)]


def network(depth, pooling):
    layers = []
    for n in range(1, depth + 1):
        layers += [Conv(8, 3, padding=1, kernel_init=initializers.he_normal), ReLU()]
        layers += [MaxPool(2)] if pooling and n % 2 == 0 else []
    return Sequential(layers)


def measure(config, seeds):
    models = [network(depth, config["pooling"]) for depth in range(1, config["depth"] + 1)]
    gradients = [[pixel_gradient(model, SIZE, seed) for seed in seeds] for model in models]
    deepest = gradients[-1][0]
    return {
        "computed": [summarize(model, (SIZE, SIZE, 1)).rows[-1].receptive_field[0] for model in models],
        "measured": [[extent(g) for g in of_seeds] for of_seeds in gradients],
        "effective": [[effective_width(g) for g in of_seeds] for of_seeds in gradients],
        "gradient": deepest / deepest.max(),
        "picture": np.kron(load_images(config["dataset"]).test[0][0, ..., 0], np.ones((2, 2), np.uint8)),
    }


def figures(records):
    made, (left, *others) = figure(finding(records).text.partition(";")[0], 3)
    for axis, r, name, colour in zip(others, records, ("no pooling", "pooling"), ("C0", "C1"), strict=True):
        depths = np.arange(1, r.config["depth"] + 1)
        left.plot(depths, r["computed"], color=colour, label=f"{name}: computed")
        points(left, depths, r["measured"], f"{name}: measured", ls="", color=colour)
        points(left, depths, r["effective"], f"{name}: effective", ls=":", marker="x", color=colour)
        axis.imshow(r["picture"], cmap="Greys_r")
        axis.imshow(np.ones_like(r["gradient"]), cmap="autumn", vmin=0, vmax=2, alpha=np.sqrt(r["gradient"]))
        (top, left_most), side = (indices.min() - 0.5 for indices in np.nonzero(r["gradient"])), r["computed"][-1]
        axis.add_patch(Rectangle((left_most, top), side, side, fill=False, ec=colour, lw=2))
        axis.set(title=f"{name}, {len(depths)} convolutions", xlabel="column (pixels)", ylabel="row (pixels)")
        axis.grid(visible=False)
    left.set(xlabel="convolutions", ylabel="width of the field (pixels)")
    left.legend(fontsize=8)
    return {"receptive_field": made}


def finding(records):
    plain, pooled = (r["computed"][-1] for r in records)
    is_exact = all((r["measured"] == r["computed"][:, None]).all() for r in records)
    narrow, wide = (r["effective"][-1] for r in records)
    text = f"After {records[0].config['depth']} convolutions a unit sees {pooled:.0f} pixels across with pooling, "
    text += f"{plain:.0f} without; the measured gradient reaches {'' if is_exact else 'not '}exactly as far at every "
    text += f"depth; its effective width is {spread(wide, 'pixels')} and {spread(narrow, 'pixels')}."
    return judge([pooled > plain, is_exact, is_above(wide, narrow)], text)


EXPERIMENT = Experiment("C7", configs, measure, figures, finding)
