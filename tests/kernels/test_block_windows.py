"""Convolutions over blocks of pixels, the form for TPUs, against XLA's own convolution in all three roles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import create_model, kernels
from jaxcnn.kernels.convolution import BiasedConvolution, Convolution, Geometry, Role, block_windows

STEMS = {
    "7x7 at stride 2": ((7, 7), (2, 2), [((3, 3), (3, 3)), ((2, 3), (2, 3)), ((0, 0), (0, 0))]),
    "3x3 at stride 2": ((3, 3), (2, 2), [((1, 1), (1, 1)), ((0, 1), (0, 1)), ((0, 0), (0, 0))]),
    "11x11 at stride 4": ((11, 11), (4, 4), [((2, 2), (2, 2)), ((3, 4), (3, 4)), ((0, 0), (0, 0))]),
    "5x4 at strides 3 and 2": ((5, 4), (3, 2), [((4, 0), (1, 3))]),
}


def cases():
    for name, (size, strides, paddings) in STEMS.items():
        for padding in paddings:
            yield pytest.param(size, strides, padding, id=f"{name}, {padding}")


def operands(geometry: Geometry, role: Role):
    """Return random tensors for the two roles that the convolution takes."""
    rng = np.random.default_rng(0)
    tensors = {of: jnp.asarray(rng.normal(size=geometry.shape(of)), jnp.float32) for of in Role}
    taken = {
        Role.OUTPUT: (Role.IMAGE, Role.KERNEL),
        Role.IMAGE: (Role.OUTPUT, Role.KERNEL),
        Role.KERNEL: (Role.IMAGE, Role.OUTPUT),
    }
    return [tensors[of] for of in taken[role]]


def assert_close(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


@pytest.mark.parametrize(("size", "strides", "padding"), [*cases()])
def test_output_and_both_gradients_are_those_of_the_convolution(size, strides, padding):
    for height, width in ((20, 20), (21, 23), (19, 22)):
        geometry = Geometry((2, height, width, 3), (*size, 3, 5), strides, padding, (1, 1), 1)
        for role in Role:
            kernel, values = Convolution(role, geometry, "float32"), operands(geometry, role)
            assert_close(kernel._by_transposing(block_windows, *values), kernel.form(*values)[0])


def test_a_bias_and_a_mapped_axis_keep_the_form():
    geometry = Geometry((2, 21, 20, 3), (7, 7, 3, 5), (2, 2), ((3, 3), (3, 3)), (1, 1), 1)
    x, w = operands(geometry, Role.OUTPUT)
    biased, bias = BiasedConvolution(Convolution(Role.OUTPUT, geometry, "float32")), jnp.arange(5.0)
    assert_close(biased.tpu_form(x, w, bias)[0], biased.form(x, w, bias)[0])
    assert "4x4x12x5" in lowered("tpu", jax.vmap(lambda w: convolved(geometry, x, w)), jnp.stack([w, 2 * w]))


@pytest.mark.parametrize(
    "change",
    [
        {"image": (2, 20, 20, 64), "kernel": (7, 7, 64, 5)},
        {"strides": (1, 1)},
        {"kernel": (3, 3, 3, 5)},
        {"strides": (4, 4), "kernel": (11, 11, 3, 5)},
        {"dilation": (2, 2)},
        {"kernel": (7, 7, 1, 6), "groups": 3},
    ],
    ids=str,
)
def test_other_convolutions_have_no_blocks(change):
    geometry = Geometry((2, 20, 20, 3), (7, 7, 3, 5), (2, 2), ((3, 3), (3, 3)), (1, 1), 1)
    assert geometry.has_blocks
    assert not geometry._replace(**change).has_blocks


def convolved(geometry: Geometry, x, kernel):
    return kernels.conv(x, kernel, *geometry[2:])


def lowered(platform, function, *args):
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("platform", "kernel"), [("tpu", "4x4x12x64"), ("cuda", "7x7x3x64"), ("cpu", "7x7x3x64")])
def test_only_tpus_convolve_the_first_images_of_resnet_in_blocks(platform, kernel):
    model, x = create_model("resnet18", 10), jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(x.shape), train=False))
    assert variables["params"]["stem"]["conv"]["kernel"].shape == (7, 7, 3, 64)
    text = lowered(platform, lambda variables, x: model.apply(variables, x, train=False), variables, x)
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert platform == "cpu" or f"tensor<{kernel}xf32>" in convolutions[0]  # oneDNN may compute those of a CPU
    assert ("4x4x12x64" in text) == (kernel == "4x4x12x64")
