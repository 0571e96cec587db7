"""Measure cases of `jaxcnn.measure`, each in a process of its own; the parts `sweep`, `spread` and `dispatch`."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.gpu.run import TIME_LIMIT, Run
from benchmarks.suite import describe
from jaxcnn.measure import Case, Row, add_scaling, measure_isolated, results
from jaxcnn.measure.row import case_columns


def sweep() -> list[Case]:
    """Return each model with several batch sizes.

    The order is the first batch size of every model, in bfloat16 and float32; then the other batch sizes; then
    inference.
    """
    batch_sizes = {
        "resnet50": (256, 64, 512),
        "resnet18": (512, 128, 2048),
        "vgg16": (128, 32, 256),
        "densenet121": (256, 64, 512),
        "lenet5": (4096, 256, 32768),
    }
    plan = []
    for index in range(3):
        for model, sizes in batch_sizes.items():
            plan.append(Case(model, sizes[index], dtype="bfloat16"))
            if index == 0:
                plan.append(Case(model, sizes[index], dtype="float32"))
    return [*plan, Case("resnet50", 256, "infer", "bfloat16"), Case("resnet50", 1, "infer", "bfloat16")]


def spread() -> list[Case]:
    """Return ResNet-50 and LeNet-5 with pmap, shard_map and jit, except ResNet-50 with pmap, which is in `sweep`."""
    return [
        *(Case("resnet50", 256, dtype="bfloat16", parallel=strategy) for strategy in ("shard_map", "jit")),
        *(Case("lenet5", 256, dtype="float32", parallel=strategy) for strategy in ("pmap", "shard_map", "jit")),
    ]


def dispatch() -> list[Case]:
    """Return LeNet-5 and ResNet-18 with one step and with several steps per dispatch."""
    settings = (("lenet5", 256, 1), ("lenet5", 256, 100), ("resnet18", 128, 1), ("resnet18", 128, 10))
    return [
        Case(model, batch, dtype="bfloat16", steps_per_dispatch=steps, steps=max(40, steps))
        for model, batch, steps in settings
    ]


PLANS: dict[str, tuple[str, Callable[[], list[Case]]]] = {
    "sweep": ("Models and batch sizes", sweep),
    "spread": ("Ways to distribute a step", spread),
    "dispatch": ("Steps per dispatch", dispatch),
}
"""Title and cases of each of these parts."""


def tiny_case(case: Case) -> Case:
    """Return the case with LeNet-5, a batch of at most 2 images and 2 steps."""
    return replace(
        case,
        model="lenet5",
        batch_size=2 if case.batch_size > 64 else 1,
        steps=2,
        steps_per_dispatch=min(2, case.steps_per_dispatch),
    )


def tiny_plan(plan: Sequence[Case]) -> list[Case]:
    """Return at most three different small cases of a plan, with the dtypes, modes and strategies it begins with."""
    return list(dict.fromkeys(tiny_case(case) for case in plan))[:3]


def run_plan(title: str, plan: Sequence[Case], run: Run) -> list[Row]:
    """Measure the cases until the deadline, and write all rows after each one."""
    rows: list[Row] = []
    for case in tiny_plan(plan) if run.tiny else plan:
        if run.has_time:
            rows.append(measure_isolated(case, timeout=run.seconds_left))
        else:
            rows.append({**case_columns(case), "error": TIME_LIMIT})
        print(f"  {describe(rows[-1])}", flush=True)
        add_scaling(rows)
        results.write(run.folder, rows, title, pictures=False)
    with contextlib.suppress(ImportError):  # matplotlib is optional
        results.write(run.folder, rows, title)
    return rows
