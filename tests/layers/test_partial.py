"""`Partial`, and layers as values."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers import (
    GELU,
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    LocalResponseNorm,
    MaxPool,
    Partial,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    SqueezeExcitation,
    StochasticDepth,
    Tanh,
    ZeroPadShortcut,
    hard_sigmoid,
    initializers,
    relu,
)

VALUES = [
    GELU(approximate=True),
    ReLU(),
    Sigmoid(),
    Softmax(axis=1),
    Tanh(1.7159, 2 / 3),
    Conv(6, (5, 3), strides=2, padding=((1, 1), (0, 0)), kernel_init=initializers.he_normal, dtype=jnp.bfloat16),
    Dense(10, kernel_init=initializers.truncated_normal(), bias_init=initializers.constant(0.5)),
    Dropout(0.5),
    StochasticDepth(0.5),
    SiLU(),
    SqueezeExcitation(4, gate=hard_sigmoid),
    BatchNorm(epsilon=1e-3, axis_name=None),
    LayerNorm(epsilon=1e-6),
    LocalResponseNorm(size=3),
    MaxPool(3, 2, ceil_mode=True),
    AvgPool(2),
    AdaptiveAvgPool((2, 3)),
    GlobalAvgPool(),
    Flatten(),
    ZeroPadShortcut(8, 2),
    Sequential([Conv(4, 3), relu, MaxPool(2), Flatten(), Dense(3)]),
    Residual(Sequential((Conv(4, 3), ReLU())), ZeroPadShortcut(4)),
    Concat([Conv(4, 1), relu]),
    Partial(BatchNorm, epsilon=1e-3),
    Partial(AvgPool, 5, 3),
    *(getattr(initializers, name) for name in initializers.__all__ if name not in ("constant", "normal")),
    initializers.normal(0.5),
]


def copies(value):
    return pickle.loads(pickle.dumps(value)), copy.deepcopy(value), copy.copy(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: getattr(value, "__name__", type(value).__name__))
def test_layers_and_initializers_are_values(value):
    for other in copies(value):
        assert other == value
        assert hash(other) == hash(value)


def test_a_copy_of_a_layer_is_not_compiled_again():
    layer, calls = Sequential((Conv(4, 3, kernel_init=initializers.he_normal), relu)), []

    @functools.partial(jax.jit, static_argnums=0)
    def run(layer, x):
        calls.append(layer)
        return layer.init_with_output(jax.random.key(0), x)[0]

    for value in (layer, *copies(layer)):
        run(value, jnp.ones((1, 4, 4, 2)))
    assert len(calls) == 1


def test_partial_binds_arguments_as_functools_partial_does():
    bound = Partial(Partial(Conv, 6, padding=2), 5, strides=2)
    assert bound == Partial(Conv, 6, 5, strides=2, padding=2)
    assert bound(name="C1") == Conv(6, 5, padding=2, strides=2, name="C1")
    assert isinstance(bound, functools.partial)
    assert "Conv" in repr(bound)
    assert "padding=2" in repr(bound)


@pytest.mark.parametrize(
    "other",
    [Partial(Conv, 6, 5), Partial(Conv, 6, padding=3), Partial(Dense, 6), functools.partial(Conv, 6, padding=2)],
)
def test_partials_that_bind_something_else_differ(other):
    assert Partial(Conv, 6, padding=2) != other


@pytest.mark.parametrize("bind", [lambda **f: Partial(BatchNorm, **f), lambda **f: Partial(Partial(BatchNorm), **f)])
def test_an_unknown_field_is_refused_with_the_closest_valid_name(bind):
    with pytest.raises(UsageError, match=r"^unknown field of BatchNorm 'epsilom'; did you mean 'epsilon'\?$"):
        bind(epsilom=1e-3)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(UsageError, match=r"^not a constructor: None\. Give a class or a function\.$"):
        Partial(None, epsilon=1e-3)
