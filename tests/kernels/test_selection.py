"""One switch for all kernels: it selects them, and functions that are compiled already follow it."""

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import kernels
from jaxcnn.errors import UsageError
from jaxcnn.kernels import native
from jaxcnn.layers import Conv

needs_native = pytest.mark.skipif(not native.is_available(), reason="jaxcnn[cpu] is not installed")


def custom_calls(function, *args) -> int:
    return function.lower(*args).as_text().count("custom_call @jaxcnn")


def test_the_innermost_context_counts_and_ends(monkeypatch):
    monkeypatch.delenv("JAXCNN_KERNELS", raising=False)
    assert kernels.selected() == "auto"
    with kernels.use("xla"):
        assert kernels.selected() == "xla"
        with kernels.use("auto"):
            assert kernels.selected() == "auto"
        assert kernels.selected() == "xla"
    assert kernels.selected() == "auto"


def test_the_variable_is_the_default(monkeypatch):
    monkeypatch.setenv("JAXCNN_KERNELS", "XLA")
    assert kernels.selected() == "xla"
    assert kernels.describe() == kernels.describe("bfloat16") == "XLA"


@pytest.mark.parametrize("how", ["variable", "context"])
def test_an_unknown_choice_is_an_error_with_the_closest_one(monkeypatch, how):
    if how == "variable":
        monkeypatch.setenv("JAXCNN_KERNELS", "nativ")
        with pytest.raises(UsageError, match=r"'nativ'.*'native'"):
            kernels.selected()
    else:
        with pytest.raises(UsageError, match=r"'nativ'.*'native'"), kernels.use("nativ"):
            pass


@needs_native
def test_a_compiled_function_follows_the_switch():
    layer, x = Conv(64, 3), jnp.ones((4, 32, 32, 64))
    variables = layer.init(jax.random.key(0), x[:1])
    apply = jax.jit(layer.apply)
    apply(variables, x)
    assert custom_calls(apply, variables, x) == 1
    with kernels.use("xla"):
        assert custom_calls(apply, variables, x) == 0
    with kernels.inlined():
        assert "jaxcnn" not in str(jax.make_jaxpr(apply)(variables, x))
    assert custom_calls(apply, variables, x) == 1


@needs_native
def test_flops_are_counted_right_under_the_xla_kernels():
    """A custom call counts as nothing, which the documentation of `summarize` says."""
    layer, x = Conv(64, 3, padding=1, use_bias=False), jnp.ones((4, 32, 32, 64))
    variables = layer.init(jax.random.key(0), x[:1])

    def flops() -> float:
        cost = jax.jit(layer.apply).lower(variables, x).compile().cost_analysis()
        return cost.get("flops", 0.0)

    expected = 2 * 4 * 32 * 32 * 64 * 64 * 9
    assert flops() < 0.01 * expected
    with kernels.use("xla"):
        assert 0.9 * expected < flops() <= expected


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_program_for_an_accelerator_has_neither_native_code_nor_barriers(platform):
    layer, x = Conv(64, 1), jnp.ones((4, 32, 32, 64))
    variables = layer.init(jax.random.key(0), x[:1])

    def loss(variables, x):
        return kernels.materialize(layer.apply(variables, kernels.materialize(x))).sum()

    lowered = jax.jit(jax.grad(loss)).trace(variables, x).lower(lowering_platforms=(platform,))
    text = lowered.as_text()
    assert "custom_call" not in text
    assert "optimization_barrier" not in text
    assert "stablehlo.convolution" in text  # and not the product of matrices that a CPU prefers
