"""The training step as a program for accelerators: its messages, its costs, and nothing in it that is meant for CPUs.

Lowering needs no accelerator, and compiling only the compilers, `pip install 'jaxcnn[aot-tpu,aot-cuda]'`.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from jaxcnn.data import normalize
from jaxcnn.layers import BatchNorm, Partial
from jaxcnn.measure.probes.collectives import collectives
from jaxcnn.models import create_model
from jaxcnn.train import Classification, create_state, make_parallel, make_train_step
from jaxcnn.train.devices.parallel import batch_norm_fields
from jaxcnn.train.devices.sharding import by_rows

IMAGE = (32, 32, 3)
NORMS = 53
"""Batch normalizations of ResNet-50."""


def program(devices, sync="none", model="resnet50", **fields):
    """Return the step over eight devices, and its arguments as shapes."""
    parallel = make_parallel("shard_map", devices)
    norm = Partial(BatchNorm, **batch_norm_fields(sync, parallel, **fields))
    network = create_model(model, 10, dtype=jnp.bfloat16, norm=norm)
    optimizer = optax.sgd(0.1, momentum=0.9)
    task = Classification(normalize=lambda x: normalize(x, mean=(0.5,) * 3, std=(0.25,) * 3))
    state = jax.eval_shape(lambda: create_state(network, optimizer, IMAGE, seed=jnp.uint32(0)))
    rows = by_rows(parallel.mesh, 0)
    batch = {
        "image": jax.ShapeDtypeStruct((16, *IMAGE), jnp.uint8, sharding=rows),
        "label": jax.ShapeDtypeStruct((16,), jnp.int32, sharding=rows),
    }
    shardings = parallel.state_sharding(state)
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)
    step = make_train_step(network, optimizer, task)
    return parallel.compile(step, donate_state=True), (state, batch)


def lowered(platform, **options):
    step, args = program(jax.devices()[:8], **options)
    return step.trace(*args).lower(lowering_platforms=(platform,)).as_text()


def messages(jaxpr):
    """Return the collectives of a jaxpr by name, except the sum of gradients, which depends on the platform."""
    found = {"psum": 0, "all_gather": 0}
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in found:
            found[name] += 1
        if name != "cond":
            for inner in jaxprs_in_params(equation.params):
                for kind, count in messages(inner).items():
                    found[kind] += count
    return found


@pytest.mark.parametrize("model", ["resnet50", "densenet121", "googlenet_bn"])
def test_a_gpu_sums_gradients_statistics_and_metrics_in_few_messages(model):
    text = lowered("cuda", model=model)
    assert 1 <= text.count("stablehlo.all_reduce") <= 12
    assert "stablehlo.all_gather" not in text


@pytest.mark.parametrize("reduce_dtype", ["float32", "bfloat16"])
def test_synchronized_batch_norm_sends_one_message_in_each_direction(reduce_dtype):
    step, args = program(jax.devices()[:8], "all", reduce_dtype=reduce_dtype)
    assert messages(jax.make_jaxpr(step)(*args).jaxpr) == {"psum": 2 * NORMS, "all_gather": 0}
    assert messages(jax.make_jaxpr(program(jax.devices()[:8])[0])(*args).jaxpr) == {"psum": 0, "all_gather": 0}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_an_accelerator_gets_nothing_that_is_meant_for_a_cpu(platform):
    # tests/models/test_lowering.py has all models, without the lowering for a CPU that shows what to look for.
    text, barrier = lowered(platform), "optimization_barrier"
    assert "custom_call" not in text
    # GPUs compute the gradients of the image and of the kernel of each convolution but the first together.
    pairs = len(re.findall(rf"{barrier} %\w+(?:#\d+)?, %\w+(?:#\d+)? : ", text))
    assert text.count(barrier) == pairs == {"cuda": 2 * (NORMS - 1), "tpu": 0}[platform]
    assert barrier in lowered("cpu")


@pytest.mark.parametrize("sync", ["none", "all"])
def test_accelerators_round_the_output_of_a_block_before_its_relu(sync):
    """Or XLA for GPUs would write it in float32 too, for the next residual."""
    maxima = re.findall(r"stablehlo.maximum .*: tensor<(?:\d+x){4}(\w+)>", lowered("cuda", sync=sync))
    assert set(maxima) == {"bf16"}


def test_every_array_of_the_state_is_donated():
    step, args = program(jax.devices()[:8])
    header = step.lower(*args).as_text().split("->")[0]
    assert len(re.findall(r"tf\.aliasing_output|jax\.buffer_donor", header)) == len(jax.tree.leaves(args[0]))


@pytest.fixture
def slice_of_tpus(monkeypatch):
    """Eight TPUs that are not there."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    from jax.experimental import topologies

    environment = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_LOG_DIR": "disabled",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices


@pytest.mark.slow
@pytest.mark.parametrize(("sync", "most"), [("none", 12), ("all", 12 + 2 * NORMS)])
def test_compiled_for_tpus(slice_of_tpus, sync, most):
    step, args = program(slice_of_tpus, sync)
    compiled = step.lower(*args).compile(compiler_options={"optimization_level": "O1"})
    found = collectives(compiled)
    assert {message.kind for message in found} == {"all-reduce"}
    assert len(found) <= most
    text = compiled.as_text()
    assert text.split("\n", 1)[0].count("may-alias") == len(jax.tree.leaves(args[0]))


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


MOST = {"v5e:2x4": (4.67, 34.33), "h100:8": (5.25, 50.96)}
"""GB of temporaries and of traffic of ResNet-50 with 128 images a device, by plain Flax."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "target",
    [pytest.param("v5e:2x4", marks=needs("libtpu")), pytest.param("h100:8", marks=needs("jax_cuda13_plugin"))],
)
def test_resnet50_costs_what_was_measured(target):
    """In `benchmarks/results/accelerator_step`, with the versions of XLA that it names."""
    command = [sys.executable, "-m", "benchmarks.accelerator_step", target, "jaxcnn", "--sync", "none"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    names, _, row = ([cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines())
    costs = dict(zip(names, row, strict=True))
    temporaries, traffic = MOST[target]
    assert float(costs["temp GB"]) <= temporaries
    assert float(costs["traffic GB"]) <= traffic
    assert int(costs["all-reduces"].split()[0]) <= 12
    assert int(costs["aliased arrays"]) == 431
