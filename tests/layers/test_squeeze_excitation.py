"""Squeeze and excitation against the paper's equations, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers import SqueezeExcitation, hard_sigmoid, relu, sigmoid, silu


def logistic(x):
    return 1 / (1 + np.exp(-x))


PAIRS = {
    "Hu et al. and RegNet": (relu, sigmoid, lambda x: np.maximum(x, 0), logistic),
    "EfficientNet": (silu, sigmoid, lambda x: x * logistic(x), logistic),
    "MobileNetV3": (relu, hard_sigmoid, lambda x: np.maximum(x, 0), lambda x: np.clip(x + 3, 0, 6) / 6),
}


@pytest.mark.parametrize(("activation", "gate", "delta", "sigma"), PAIRS.values(), ids=PAIRS)
def test_each_channel_is_scaled_by_its_gate(activation, gate, delta, sigma):
    random = np.random.default_rng(0)
    x = random.normal(1, 2, (3, 5, 4, 8)).astype(np.float32)
    layer = SqueezeExcitation(2, activation, gate)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: random.normal(0, 1, leaf.shape).astype(np.float32), shapes)
    first, second = (variables["params"][name] for name in ("reduce", "expand"))
    hidden = delta(x.mean((1, 2)) @ first["kernel"][0, 0] + first["bias"])
    scale = sigma(hidden @ second["kernel"][0, 0] + second["bias"])
    np.testing.assert_allclose(layer.apply(variables, x), x * scale[:, None, None], rtol=1e-5, atol=1e-6)


def test_it_is_a_value_and_counts_two_products():
    layer = SqueezeExcitation(4, silu)
    assert layer == SqueezeExcitation(4, silu)
    assert hash(layer) == hash(SqueezeExcitation(4, silu))
    assert layer != SqueezeExcitation(4)
    variables = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 2, 2, 16)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 2 * 16 * 4 + 4 + 16


def test_bfloat16_keeps_float32_parameters():
    layer, x = SqueezeExcitation(2, dtype=jnp.bfloat16), jnp.ones((2, 4, 4, 8), jnp.bfloat16)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


def test_what_is_no_image_or_no_width_is_refused():
    with pytest.raises(UsageError, match=r"^SqueezeExcitation needs images \[N, H, W, C\], got shape \[2, 8\]"):
        SqueezeExcitation(2).init(jax.random.key(0), jnp.ones((2, 8)))
    with pytest.raises(UsageError, match="features"):
        SqueezeExcitation(0).init(jax.random.key(0), jnp.ones((2, 4, 4, 8)))
