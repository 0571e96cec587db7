"""Pooling widens the receptive field.

**Question.** How large a part of the image does one unit see, by depth, with and without pooling?

**Varied.** Up to six He-initialized 3x3 convolutions, with 2x2 max pooling after every second one, or without pooling.

**Expected.** Without pooling each layer adds 2 pixels. Each pooling doubles what the layers after it add. The gradient
of a unit with respect to the image is 0 outside of the field computed from kernels and strides. Inside the field, the
center matters most, so that the effective field (Luo et al., 2016) is much smaller.
"""

import numpy as np
from matplotlib.patches import Rectangle

from experiments.effective_field import effective_width, extent, pixel_gradient
from experiments.experiment import Experiment, conclude, format_mean, is_above, pick
from experiments.plots import figure, points
from experiments.training import load_images
from jaxcnn.analysis import summarize
from jaxcnn.layers import Conv, MaxPool, ReLU, Sequential, initializers

SIZE = 56


def configs(budget):
    depth = pick(budget, tiny=2, small=6, full=6)
    return [{"pooling": pooling, "depth": depth, "dataset": "fashion_mnist_mini"} for pooling in (False, True)]


def network(depth, pooling):
    layers = []
    for number in range(1, depth + 1):
        layers += [Conv(8, 3, padding=1, kernel_init=initializers.he_normal), ReLU()]
        if pooling and number % 2 == 0:
            layers.append(MaxPool(2))
    return Sequential(layers)


def enlarged_test_image(dataset):
    """Return the first test image, `[28, 28, 1]`, with each pixel doubled in both directions."""
    image = load_images(dataset).test[0][0, ..., 0]
    return np.kron(image, np.ones((2, 2), np.uint8))


def measure(config, seeds):
    models = [network(depth, config["pooling"]) for depth in range(1, config["depth"] + 1)]
    gradients = [[pixel_gradient(model, SIZE, seed) for seed in seeds] for model in models]
    deepest = gradients[-1][0]
    return {
        "computed": [summarize(model, (SIZE, SIZE, 1)).rows[-1].receptive_field[0] for model in models],
        "measured": [[extent(gradient) for gradient in of_depth] for of_depth in gradients],
        "effective": [[effective_width(gradient) for gradient in of_depth] for of_depth in gradients],
        "gradient": deepest / deepest.max(),
        "picture": enlarged_test_image(config["dataset"]),
    }


def draw_widths(axis, measurement, label, color):
    """Draw the width of the field by depth: computed, measured, and effective."""
    depths = np.arange(1, measurement.config["depth"] + 1)
    axis.plot(depths, measurement["computed"], color=color, label=f"{label}: computed")
    points(axis, depths, measurement["measured"], f"{label}: measured", ls="", color=color)
    points(axis, depths, measurement["effective"], f"{label}: effective", ls=":", marker="x", color=color)


def draw_gradient(axis, measurement, label, color):
    """Draw the gradient of the center unit over an image, and the computed field around it."""
    gradient, depth = measurement["gradient"], measurement.config["depth"]
    axis.imshow(measurement["picture"], cmap="Greys_r")
    axis.imshow(np.ones_like(gradient), cmap="autumn", vmin=0, vmax=2, alpha=np.sqrt(gradient))
    rows, columns = np.nonzero(gradient)
    corner, side = (columns.min() - 0.5, rows.min() - 0.5), measurement["computed"][-1]
    axis.add_patch(Rectangle(corner, side, side, fill=False, ec=color, lw=2))
    axis.set(title=f"{label}, {depth} convolutions", xlabel="column (pixels)", ylabel="row (pixels)")
    axis.grid(visible=False)


def figures(measurements):
    plain, pooled = measurements
    depth = plain.config["depth"]
    title = (
        f"After {depth} convolutions a unit sees {pooled['computed'][-1]:.0f} pixels across with pooling, "
        f"{plain['computed'][-1]:.0f} without"
    )
    made, (widths, *images) = figure(title, 3)
    cases = ((plain, "no pooling", "C0"), (pooled, "pooling", "C1"))
    for axis, (measurement, label, color) in zip(images, cases, strict=True):
        draw_widths(widths, measurement, label, color)
        draw_gradient(axis, measurement, label, color)
    widths.set(xlabel="convolutions", ylabel="width of the field (pixels)")
    widths.legend(fontsize=8)
    return {"receptive_field": made}


def conclusion(measurements):
    plain, pooled = measurements
    plain_width, pooled_width = plain["computed"][-1], pooled["computed"][-1]
    narrow, wide = plain["effective"][-1], pooled["effective"][-1]
    is_exact = all((m["measured"] == m["computed"][:, None]).all() for m in measurements)
    agreement = "The measured extent equals the computed one" if is_exact else "Measured and computed extent differ"
    return conclude(
        [pooled_width > plain_width, is_exact, is_above(wide, narrow)],
        f"After {plain.config['depth']} convolutions a unit sees {pooled_width:.0f} pixels across with pooling and "
        f"{plain_width:.0f} without. {agreement}. The effective width is "
        f"{format_mean(wide, 'pixels')} with pooling and {format_mean(narrow, 'pixels')} without.",
    )


EXPERIMENT = Experiment("C7", configs, measure, figures, conclusion)
