"""jaxcnn itself, as its command line runs it; with oneDNN where it is installed, unless the task says not."""

import os

import jax

from jaxcnn import startup
from jaxcnn.measure import Case
from jaxcnn.measure.machine import device_name, package_version
from jaxcnn.measure.program import build as build_program
from jaxcnn.native import is_used
from jaxcnn.native.build import SWITCH


def build(task):
    if not task.get("native", True):
        os.environ[SWITCH] = "0"
    startup.settle()
    jax.config.update("jax_compilation_cache_dir", None)  # compile times stand in the table
    case = Case(
        task["model"],
        task["batch_size"],
        dtype=task["dtype"],
        parallel=task.get("parallel", "pmap"),
        devices=1,
        image_size=task["image_shape"][0],
    )
    program = build_program(case)
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
            "versions": f"jax {jax.__version__}, flax {package_version('flax')}" + ", oneDNN" * is_used(),
            "device_kind": device_name(jax.devices()[0]),
        },
    )
