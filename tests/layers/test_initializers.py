"""Initial values: the variance that each paper derives from fan-in and fan-out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.layers import Conv, Dense, initializers

VARIANCES = {
    "xavier": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "he": lambda fan_in, fan_out: 2 / fan_in,
    "lecun": lambda fan_in, fan_out: 1 / fan_in,
}
KERNELS = {
    # A unit of a convolution sees kH kW C_in values, and each value is seen kH kW C_out times.
    "conv": ((3, 5, 40, 64), 3 * 5 * 40, 3 * 5 * 64),
    "grouped conv": ((3, 3, 10, 320), 3 * 3 * 10, 3 * 3 * 320),
    "dense": ((120, 300), 120, 300),
}
kernels = pytest.mark.parametrize("kernel", KERNELS)


def draw(name: str, shape, seed: int = 0):
    return np.asarray(getattr(initializers, name)(jax.random.key(seed), shape, jnp.float32), np.float64)


@kernels
@pytest.mark.parametrize("name", ["xavier_normal", "he_normal", "lecun_normal"])
def test_normal(name, kernel):
    shape, fan_in, fan_out = KERNELS[kernel]
    weights, std = draw(name, shape), np.sqrt(VARIANCES[name.split("_")[0]](fan_in, fan_out))
    assert weights.std() == pytest.approx(std, rel=0.02)
    assert abs(weights.mean()) < 4.5 * std / np.sqrt(weights.size)
    # A bell, and no box: its middle third of probability is narrower.
    assert np.mean(np.abs(weights) < 0.5 * std) > 0.35


@kernels
@pytest.mark.parametrize("name", ["xavier_uniform", "he_uniform"])
def test_uniform(name, kernel):
    shape, fan_in, fan_out = KERNELS[kernel]
    weights, bound = draw(name, shape), np.sqrt(3 * VARIANCES[name.split("_")[0]](fan_in, fan_out))
    assert weights.max() <= bound * (1 + 1e-6)
    assert weights.min() >= -bound * (1 + 1e-6)
    # As far as the bound, and as often in every tenth of the way there.
    shares = np.histogram(weights, 10, (-bound, bound))[0] / weights.size
    np.testing.assert_allclose(shares, 0.1, atol=4.5 * np.sqrt(0.09 / weights.size))
    np.testing.assert_allclose([weights.min(), weights.max()], [-bound, bound], rtol=0.005)


@pytest.mark.parametrize(
    "name", ["xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "lecun_normal", "torch_uniform"]
)
def test_the_key_decides(name):
    np.testing.assert_array_equal(draw(name, (4, 4), 1), draw(name, (4, 4), 1))
    assert (draw(name, (4, 4), 1) != draw(name, (4, 4), 2)).all()


@kernels
def test_torch_uniform(kernel):
    shape, fan_in, _ = KERNELS[kernel]
    weights = draw("torch_uniform", shape)
    np.testing.assert_allclose([weights.min(), weights.max()], [-(fan_in**-0.5), fan_in**-0.5], rtol=0.005)
    assert weights.var() == pytest.approx(1 / (3 * fan_in), rel=0.02)


@pytest.mark.parametrize("outputs", [3, 5, 12])
def test_a_dirac_kernel_passes_on_its_input(outputs):
    x = np.random.default_rng(0).normal(size=(2, 6, 7, 5)).astype(np.float32)
    conv = Conv(outputs, 3, padding=1, use_bias=False, kernel_init=initializers.dirac)
    y, variables = conv.init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y[..., :5], x[..., :outputs], atol=1e-6)
    rest = variables["params"]["kernel"][..., 5:]
    assert rest.size == 0 or rest.std() > 0.05


@pytest.mark.parametrize("layer", [Conv, Dense])
def test_layers_start_with_lecuns_kernel_and_no_bias_or_with_what_they_are_given(layer):
    size = (3,) if layer is Conv else ()
    x = jnp.ones((1, 4, 4, 20))
    fan_in = 20 * 3 ** (2 * len(size))
    params = layer(500, *size).init(jax.random.key(0), x)["params"]
    assert params["kernel"].std() == pytest.approx(np.sqrt(1 / fan_in), rel=0.03)
    assert not params["bias"].any()
    given = layer(500, *size, kernel_init=initializers.he_uniform, bias_init=initializers.constant(0.5))
    params = given.init(jax.random.key(0), x)["params"]
    assert params["kernel"].max() == pytest.approx(np.sqrt(6 / fan_in), rel=0.01)
    assert (params["bias"] == 0.5).all()
