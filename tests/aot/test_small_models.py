"""Memory and FLOPs in the report of a small model of each family, compiled for a TPU and a GPU.

Memory is held against what the compiler states of its program, and FLOPs against `jaxcnn.analysis`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache
from small_models import BATCH, SMALL, installed, small_plan

from jaxcnn.analysis import summarize
from jaxcnn.aot import hlo, parse_target
from jaxcnn.aot import report as reports
from jaxcnn.aot.program import compile_plan
from jaxcnn.aot.report import convolution_flops
from jaxcnn.aot.targets import TPU_ENVIRONMENT, topology_devices

TPU, GPU = "v5e:1x1", "h100"
QUICK, SAMPLE = ("lenet5",), ("resnet50", "densenet121")


def cases(*targets):
    for target in targets:
        missing = pytest.mark.skipif(not installed(target), reason=f"the compiler for {target} is not installed")
        for model in SMALL:
            marks = [] if model in QUICK else [pytest.mark.slow]
            marks += [] if model in (*QUICK, *SAMPLE) else [pytest.mark.exhaustive]
            yield pytest.param(target, model, marks=(missing, *marks))


@pytest.fixture(scope="module", autouse=True)
def compilers():
    """Set the environment in which `jaxcnn.aot` compiles, and XLA's quick optimization level.

    Without devices, JAX can store programs in its compilation cache, but not read them.
    """
    names = ("jax_optimization_level", "jax_enable_compilation_cache")
    before = {name: jax.config.values[name] for name in names}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TPU_ENVIRONMENT.items():
            patch.setenv(name, value)
        jax.config.update("jax_optimization_level", "O1")
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # which remembers whether it is enabled
        yield
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@functools.cache
def compiled(name, model):
    """Return the plan of the small model's run, the compiled step, and its report."""
    target = parse_target(name)
    plan = small_plan(model, topology_devices(target)[:1])
    program = compile_plan(plan)
    return plan, program.compiled, reports.measure(target, program)


def activations(plan):
    """Return the values in the outputs of all layers, for a batch."""
    shape = (BATCH, *plan.pipeline.image_shape)
    return summarize(plan.model, shape, dtype=jnp.bfloat16, train=True).activation_bytes / 2


@pytest.mark.parametrize(("target", "model"), list(cases(TPU, GPU)))
def test_memory_is_that_of_the_compiled_program(target, model):
    plan, program, report = compiled(target, model)
    memory, stats = report.memory, program.memory_analysis()
    arguments = memory.parameters + memory.optimizer + memory.averages + memory.batch
    if target == TPU:
        # Parameters of few channels are mostly padding to tiles, and each is a multiple of 512 bytes.
        entry = hlo.parse(program.as_text())
        parameters = [i for i in entry.computations[entry.entry].values() if i.opcode == "parameter"]
        padded = sum(-(-array.padded_bytes // 512) * 512 for i in parameters for array in i.results)
        assert arguments < stats.argument_size_in_bytes == pytest.approx(padded, rel=0.01)
    else:
        assert stats.argument_size_in_bytes == arguments
    # The state is donated: other results are sums of the metrics, and a table of pointers.
    assert stats.output_size_in_bytes - stats.alias_size_in_bytes < 4096
    # Temporaries that are never alive together, and the program, make the difference to the peak.
    assert memory.total >= stats.peak_memory_in_bytes > (0.3 if target == TPU else 0.95) * memory.total
    # Kept are the prepared images and most outputs of layers, in two bytes for each value, and the gradients. Fusions
    # recompute some. TPUs pad few channels to 128.
    images = BATCH * math.prod(plan.pipeline.image_shape)
    kept = 2 * (activations(plan) + images) + memory.parameters
    assert 0.5 * kept < memory.temporaries < (25 if target == TPU else 5) * kept


@pytest.mark.parametrize(("target", "model"), list(cases(TPU, GPU)))
def test_flops_are_those_of_the_analysis_and_of_elementwise_operations(target, model):
    plan, _, report = compiled(target, model)
    products = BATCH * convolution_flops(plan)
    if target == GPU:
        assert report.flops == products  # XLA counts nothing for a GPU that is not there
    else:
        # Normalization, activation and their gradients, for each value that a layer returns. The first convolution of
        # ResNet and DenseNet is one of 8x8 on blocks of pixels: 64 products in place of 49. The max pooling behind it
        # compares values in the gradient too.
        assert 15 < (report.flops - products) / activations(plan) < (70 if model in ("resnet50", "densenet121") else 40)


@pytest.mark.slow
@pytest.mark.skipif(not installed("h100:8"), reason="the compiler for h100:8 is not installed")
def test_synchronized_batch_norm_sends_at_most_two_messages_a_layer_between_gpus():
    target = parse_target("h100:8")
    plan = small_plan("resnet50", topology_devices(target))
    norms = sum(path[-1].key == "mean" for path, _ in jax.tree_util.tree_leaves_with_path(plan.template.batch_stats))
    report = reports.measure(target, compile_plan(plan))
    assert {message.kind for message in report.collectives} == {"all-reduce"}
    # The gradients, and the metrics, are joined in a few messages.
    assert norms < sum(message.count for message in report.collectives) <= 2 * norms + 3
