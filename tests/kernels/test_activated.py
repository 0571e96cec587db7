"""1x1 convolutions of normalized and rectified feature maps: the native form against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import kernels
from jaxcnn.kernels import native
from jaxcnn.kernels._primitive import call
from jaxcnn.kernels.activated import ActivatedConvolution, activated_conv
from jaxcnn.kernels.fused import content_of

# Images, height and width, channels of each map, and features of the result.
CASES = {
    "one map": ((2, 14, 14), (64,), 128),
    "many maps": ((2, 9, 11), (64, 32, 32, 32), 128),
    "odd channels": ((3, 13, 13), (33, 5, 7), 101),
    "few pixels": ((1, 3, 3), (1024, 64), 256),
    "small": ((1, 4, 4), (3, 2), 4),
}
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}


def made(name, dtype="float32", seed=0):
    size, channels, features = CASES[name]
    random = np.random.default_rng(seed)
    maps = [jnp.asarray(random.normal(size=(*size, count)), dtype) for count in channels]
    total = sum(channels)
    kernel = np.asarray(jnp.asarray(random.normal(size=(1, 1, total, features)) / np.sqrt(total), dtype))
    factor, offset = random.normal(size=(2, total)).astype(np.float32)
    return (kernel, factor, offset, random.normal(size=features).astype(np.float32)), maps


def defined(relu, kernel, factor, offset, bias, maps):
    """Return the definition, in float64."""
    x = np.concatenate([np.asarray(x).astype(np.float64) for x in maps], axis=-1)
    x = np.maximum(x * factor.astype(np.float64) + offset, 0)
    y = x @ kernel[0, 0].astype(np.float64) + bias
    return np.maximum(y, 0) if relu else y


def error(ours, theirs):
    return np.abs(np.asarray(ours).astype(np.float64) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_every_form_computes_the_definition(name, dtype):
    vectors, maps = made(name, dtype)
    for relu in (False, True):
        expected = defined(relu, *vectors, maps)
        for choice in ("xla", "auto"):
            with kernels.use(choice):
                compute = jax.jit(lambda *maps, relu=relu: activated_conv(relu, *vectors, maps))
                first = compute(*maps)
                assert first.dtype == dtype
                assert error(first, expected) < TOLERANCE[dtype]
                np.testing.assert_array_equal(compute(*maps), first)
        with kernels.inlined():
            assert error(activated_conv(relu, *vectors, maps), expected) < TOLERANCE[dtype]


@pytest.mark.skipif(not native.is_available(), reason="needs the native library")
@pytest.mark.parametrize("name", [name for name in CASES if name != "small"])
def test_the_native_form_is_called(name):
    vectors, maps = made(name)
    text = jax.jit(lambda *maps: activated_conv(True, *vectors, maps)).lower(*maps).as_text()
    assert native.ACTIVATED_CONVOLUTION in text


@pytest.mark.parametrize("axis", [0, 2])
def test_mapped_images_are_one_batch(axis):
    vectors, maps = made("many maps")
    several = [jnp.stack([x, -x, 2 * x], axis) for x in maps[:-1]]
    compute = jax.vmap(lambda *some: activated_conv(True, *vectors, [*some, maps[-1]]), axis)
    ys = jax.jit(compute)(*several)
    for y, scale in zip(ys, (1, -1, 2), strict=True):
        expected = defined(True, *vectors, [*(scale * x for x in maps[:-1]), maps[-1]])
        assert error(y, expected) < TOLERANCE["float32"]


def test_a_mapped_kernel_is_not_packed():
    vectors, maps = made("one map")
    weights = np.stack([made("one map", seed=seed)[0][0] for seed in range(3)])
    kernel = ActivatedConvolution(False, content_of(weights[0]))
    compute = jax.jit(jax.vmap(lambda w: call(kernel, w, *vectors[1:], *maps)[0]))
    for w, y in zip(weights, compute(weights), strict=True):
        assert error(y, defined(False, w, *vectors[1:], maps)) < TOLERANCE["float32"]


def test_derivatives_are_those_of_the_definition():
    vectors, maps = made("small")
    kernel = ActivatedConvolution(True, content_of(vectors[0]))
    operands = [jnp.asarray(x) for x in (*vectors, *maps)]

    def loss(function, *operands):
        return jnp.square(function(*operands)[0]).sum()

    ours = jax.grad(lambda *a: loss(lambda *a: call(kernel, *a), *a), range(6))(*operands)
    theirs = jax.grad(lambda *a: loss(kernel.form, *a), range(6))(*operands)
    for mine, other in zip(ours, theirs, strict=True):
        assert error(mine, np.asarray(other, np.float64)) < 1e-5
