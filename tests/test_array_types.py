"""Array types of signatures are checked in every test, and jaxcnn runs where jaxtyping is not installed."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.array_types import AnyArray, Array, Float, Shaped


@pytest.fixture
def checked():
    """Return a decorator that checks a function as those of jaxcnn are checked."""
    from jaxtyping import jaxtyped
    from shape_checks import check

    return jaxtyped(typechecker=check)


def wrong_type():
    from jaxtyping import TypeCheckError

    return pytest.raises(TypeCheckError)


def test_the_functions_of_jaxcnn_are_checked():
    from jaxcnn.layers import relu

    with wrong_type():
        relu(1.0)  # which works, but is no array
    assert relu(jnp.ones(1)).shape == (1,)


def test_every_module_that_names_array_types_is_checked():
    import shape_checks

    assert {"jaxcnn.layers.activation", "jaxcnn.array_types"} & {*shape_checks.modules()} == {
        "jaxcnn.layers.activation"
    }


def test_wrong_arguments_and_wrong_results_are_reported(checked):
    @checked
    def mean(x: Float[Array, "n c"], keepdims: bool = False) -> Float[Array, " n"]:
        return x.mean(1, keepdims=keepdims)

    assert mean(jnp.ones((2, 3))).shape == (2,)
    with wrong_type():
        mean(jnp.ones((2, 3)), keepdims=True)
    with wrong_type():
        mean(jnp.ones((2, 3), int))
    with wrong_type():
        mean(np.ones((2, 3)))


def test_axes_of_one_name_have_one_size_and_optional_arrays_may_be_missing(checked):
    @checked
    def shift(x: Float[AnyArray, "n c"], y: Float[Array, " c"] | None = None, *rest: int, **more: int) -> None:
        pass

    shift(np.ones((2, 3)), jnp.ones(3), 1, more=2)
    shift(jnp.ones((2, 3)))
    with wrong_type():
        shift(jnp.ones((2, 3)), jnp.ones(2))


def test_an_error_of_the_function_itself_comes_first_and_other_types_are_not_checked(checked):
    @checked
    def first(x: Shaped[Array, "n c"], count: int) -> Shaped[Array, "k c"]:
        if x.ndim != 2:
            raise ValueError("two axes")
        return x[: int(count)]

    assert first(jnp.ones((4, 1)), 2.0).shape == (2, 1)
    with pytest.raises(ValueError, match="two axes"):
        first(jnp.ones(3), 1)


WITHOUT = """
import sys

sys.modules["jaxtyping"] = sys.modules["beartype"] = None  # importing them raises ImportError

import jax
import jaxcnn.analysis, jaxcnn.export, jaxcnn.freezing, jaxcnn.kernels, jaxcnn.layers, jaxcnn.models, jaxcnn.visualize
from jaxcnn.array_types import AnyArray, Array, Float, KeyArray, UInt8

assert Float[Array, "n c"] is UInt8[Array, "h w"] is KeyArray is jax.Array
assert Float[AnyArray, "n c"] == AnyArray
print(jaxcnn.layers.relu(jax.numpy.ones(2)).shape)
"""


def test_jaxcnn_runs_without_jaxtyping():
    run = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "(2,)\n"), run.stderr
