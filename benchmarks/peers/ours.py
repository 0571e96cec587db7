"""jaxcnn itself, as its command line runs it; with oneDNN where it is installed, unless the task says not."""

import os

import jax

from jaxcnn import kernels, startup
from jaxcnn.measure import Case
from jaxcnn.measure.probes.machine import device_name, package_version
from jaxcnn.measure.probes.program import build as build_program
from jaxcnn.models import create_model

# Names here that are options of a model of ours.
VARIANTS = {"resnet18_small_stem": ("resnet18", {"stem": "cifar", "num_classes": 10})}


def build(task):
    if not task.get("native", True):
        os.environ[kernels.VARIABLE] = "xla"
    name, options = VARIANTS.get(task["model"], (task["model"], {}))
    case = Case(
        name,
        task["batch_size"],
        dtype=task["dtype"],
        parallel=task.get("parallel", "pmap"),
        devices=1,
        image_size=task["image_shape"][0],
    )
    startup.settle(case.batch_values)
    jax.config.update("jax_compilation_cache_dir", None)  # compile times stand in the table
    model = create_model(name, dtype=None if case.dtype == "float32" else case.dtype, **options)
    program = build_program(case, model)
    state, batch = program.args

    def step():
        nonlocal state
        state, metrics = program.compiled(state, batch)
        return metrics

    return (
        step,
        lambda metrics: float(metrics["loss"]) / case.batch_size,
        {
            "params": sum(x.size for x in jax.tree.leaves(state.params)),
            "versions": f"jax {jax.__version__}, flax {package_version('flax')}"
            + ", oneDNN" * (kernels.describe() != "XLA"),
            "device_kind": device_name(jax.devices()[0]),
        },
    )
