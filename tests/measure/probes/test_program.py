"""Analytic operation counts agree with XLA's, except where XLA's cannot be used."""

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import kernels
from jaxcnn.analysis import summarize
from jaxcnn.measure import Case
from jaxcnn.measure.case import natural_image_shape
from jaxcnn.measure.probes.peaks import PEAKS, look_up
from jaxcnn.measure.probes.program import step_flops
from jaxcnn.models import create_model

BATCH = 2


def abstract(name, train=False):
    """Return the model, the shapes of its variables, and the shape of a batch of images."""
    model, shape = create_model(name), natural_image_shape(name)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(lambda: model.init(keys, jnp.zeros((1, *shape)), train=train))
    return model, variables, jax.ShapeDtypeStruct((BATCH, *shape), jnp.float32)


def by_xla(function, *args):
    with kernels.use("xla"):  # XLA counts a native kernel as nothing
        return jax.jit(function).lower(*args).cost_analysis()["flops"]


# XLA leaves out taps on the padding, and counts operations that are neither convolutions nor dot products.
@pytest.mark.parametrize(
    "name",
    [
        *("alexnet", "vgg11", "resnet18", "resnet20_cifar"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("googlenet", "densenet121")),
    ],
)
def test_forward_passes_agree_with_xla_within_2_percent(name):
    model, variables, images = abstract(name)
    counted = by_xla(lambda v, x: model.apply(v, x, train=False), variables, images)
    ours = 2 * BATCH * summarize(model, images.shape, count_padding=False).macs
    assert ours == pytest.approx(counted, rel=0.02)


def test_a_training_step_is_three_forward_passes_by_convention_and_by_xla():
    model, variables, images = abstract("resnet20_cifar", train=True)

    def gradient(variables, x):
        def loss(params):
            logits, _ = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return logits.sum()

        return jax.grad(loss)(variables["params"])

    counted = by_xla(gradient, variables, images)
    # XLA leaves out taps on the padding and the first layer's input gradient. Both count by convention.
    exact = 3 * 2 * BATCH * summarize(model, images.shape, count_padding=False, train=True).macs
    assert exact == pytest.approx(counted, rel=0.05)
    case = Case("resnet20_cifar", BATCH)
    assert step_flops(case) == 3 * step_flops(Case("resnet20_cifar", BATCH, "infer"))
    assert step_flops(case) == 3 * 2 * BATCH * summarize(model, images.shape).macs


def test_xla_counts_neither_padding_nor_repetitions_of_a_loop():
    # Taps on the padding are a tenth of the work on small images, and part of published counts.
    model, variables, images = abstract("resnet20_cifar")
    counted = by_xla(lambda v, x: model.apply(v, x, train=False), variables, images)
    assert counted < 0.95 * 2 * BATCH * summarize(model, images.shape).macs
    # In small networks, additions, comparisons and pooling are more than 2 % of all operations.
    model, variables, images = abstract("lenet5")
    counted = by_xla(lambda v, x: model.apply(v, x, train=False), variables, images)
    assert counted > 1.02 * 2 * BATCH * summarize(model, images.shape, count_padding=False).macs

    # XLA counts the body of a loop once.
    def loop(x):
        return jax.lax.fori_loop(0, 10, lambda _, y: x @ y, x)

    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    assert by_xla(loop, x) < 2 * (2 * 64**3)
    assert by_xla(lambda x: x @ x, x) == 2 * 64**3


def test_peaks_are_looked_up_by_the_longest_name_and_by_what_is_multiplied():
    assert look_up("NVIDIA H100 80GB HBM3", "bfloat16").flops == 989.4e12
    assert look_up("NVIDIA H100 PCIe", "bfloat16").flops == 756e12
    assert look_up("NVIDIA A100-SXM4-40GB", "float32").arithmetic == "tf32"
    assert look_up("NVIDIA A100-SXM4-40GB", "float32", "highest").flops == 19.5e12
    assert look_up("NVIDIA A10G", "bfloat16").flops == 70e12
    assert look_up("TPU v4", "float32").arithmetic == "bf16"
    assert look_up("TPU v5 lite", "bfloat16").flops == 197e12
    assert look_up("Tesla V100-SXM2-16GB", "float16").flops == 125e12
    assert look_up("Tesla V100-SXM2-16GB", "bfloat16") is None
    assert look_up("cpu", "float32") is None
    assert all(figure > 0 for figures in PEAKS.values() for figure in figures.values())
