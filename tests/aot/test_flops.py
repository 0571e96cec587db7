"""The FLOPs that reports state for GPUs, against the convolutions and products of the program lowered for one.

XLA gives no count for a GPU that is not there. The report then has that of `jaxcnn.analysis`: three times the forward
pass without taps on padding, less the image gradient of the first layer.
"""

import math
import re

import jax
import numpy as np
import pytest
from small_models import BATCH, SMALL, small_plan

from jaxcnn.analysis import summarize
from jaxcnn.aot.program import lower
from jaxcnn.aot.report import convolution_flops

CONVOLUTION = re.compile(
    r"stablehlo\.convolution\(.*?dim_numbers = \[(.*?)\]x\[(.*?)\]->\[(.*?)\], window = \{(.*?)\} .*"
    r" : \(tensor<(.*?)>, tensor<(.*?)>\) -> tensor<(.*?)>"
)
PRODUCT = re.compile(
    r"stablehlo\.dot_general .*contracting_dims = \[(.*?)\] x .*: \(tensor<(.*?)>, tensor<.*?>\) -> tensor<(.*?)>"
)


def shape(text):
    return [int(length) for length in text.split("x")[:-1]]


def numbers(text):
    return [int(number) for number in re.findall(r"-?\d+", text)]


def convolution(match):
    """Return the multiply-adds of a convolution without those on padding and between the pixels of dilated images."""
    images, kernel, results = (names.split(", ") for names in match.groups()[:3])
    lhs, rhs, out = (shape(text) for text in match.groups()[4:])
    window = {key: numbers(text) for key, text in re.findall(r"(\w+) = \[([\d\s,\[\]-]*)\](?:,|$)", match[4])}
    macs = out[results.index("b")] * out[results.index("f")] * rhs[kernel.index("i")]
    for axis in range(len(out) - 2):
        pixels, taps, length = (
            sizes[names.index(str(axis))] for sizes, names in ((lhs, images), (rhs, kernel), (out, results))
        )
        stride, holes, spread = (window.get(key, [1, 1])[axis] for key in ("stride", "lhs_dilate", "rhs_dilate"))
        start = np.arange(length) * stride - window.get("pad", [0] * 4)[2 * axis]
        position = start[:, None] + np.arange(taps) * spread
        macs *= int(np.sum((position % holes == 0) & (position >= 0) & (position < pixels * holes)))
    return macs


def product(match):
    lhs = shape(match[2])
    return math.prod(shape(match[3])) * math.prod(lhs[axis] for axis in numbers(match[1]))


def multiply_adds(text):
    """Return the multiply-adds of all convolutions and matrix products of a StableHLO program without loops."""
    return sum(map(convolution, CONVOLUTION.finditer(text))) + sum(map(product, PRODUCT.finditer(text)))


@pytest.mark.parametrize("model", SMALL)
def test_the_count_of_the_analysis_is_that_of_the_lowered_program(model):
    plan = small_plan(model, jax.devices()[:1])
    text = lower(plan, ("cuda",)).as_text()
    assert 2 * multiply_adds(text) == BATCH * convolution_flops(plan)
    # The padding and the first layer's image gradient make the difference to three forward passes.
    forward = summarize(plan.model, plan.pipeline.image_shape, train=True).macs
    assert 0.5 < convolution_flops(plan) / (6 * forward) < 1
