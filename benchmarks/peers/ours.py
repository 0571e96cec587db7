"""jaxcnn itself, as `jaxcnn benchmark` measures it."""

import jax

from jaxcnn.measure import Case
from jaxcnn.measure.machine import device_name, package_version
from jaxcnn.measure.program import build as build_program


def build(task):
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
            "versions": f"jax {jax.__version__}, flax {package_version('flax')}",
            "device_kind": device_name(jax.devices()[0]),
        },
    )
