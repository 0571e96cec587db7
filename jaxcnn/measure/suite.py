"""Measure many cases, each in a fresh process."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from jaxcnn.measure._isolate import measure_isolated
from jaxcnn.measure.case import Case, grid
from jaxcnn.measure.row import Row
from jaxcnn.measure.scaling import add_scaling

FIRST_AUTO_BATCH = 8
LAST_AUTO_BATCH = 2**20

Listener = Callable[[Case, str], None]
Measure = Callable[[Case, Callable[[str], None]], Row]


def benchmark(
    model: str | Sequence[str],
    *,
    batch_sizes: Sequence[int] | str = (32,),
    modes: Sequence[str] = ("train",),
    dtypes: Sequence[str] = ("float32",),
    parallel: Sequence[str] = ("pmap",),
    devices: Sequence[int | None] = (None,),
    steps_per_dispatch: Sequence[int] = (1,),
    image_size: int | None = None,
    steps: int = 20,
    memory_limit: int | None = None,
    model_options: Sequence[str] = (),
    timeout: float | None = None,
    on_row: Callable[[Row], None] = lambda row: None,
    listen: Listener = lambda case, stage: None,
) -> list[Row]:
    """Measure every combination of the given values, each in a fresh process.

    Args:
      model: one model name or several.
      batch_sizes: images per step over all devices. "auto" tries 8, 16, 32, ... until memory runs out; the last row
        is the one that failed. For 3 devices the sizes are 9, 18, 36, ..., multiples of their number.
      modes, dtypes, parallel, devices, steps_per_dispatch, image_size, steps, memory_limit, model_options: fields of
        `Case`.
      timeout: time limit per row in seconds.
      on_row: called with each row when it is complete.
      listen: called with the current case and its current stage, such as "compiling".

    Returns:
      One row per case. `jaxcnn.measure.columns` defines its columns. The row of a case that failed, or whose process
      was killed, has an `error` and no times.

    Raises:
      UsageError: if a value is invalid. Values that do not depend on the devices are checked before the first
        measurement.

    >>> benchmark("lenet5", modes=["eval"])
    Traceback (most recent call last):
    ...
    jaxcnn.errors.UsageError: unknown mode 'eval'; known: infer, train
    """
    auto = batch_sizes == "auto"
    cases = grid(
        [model] if isinstance(model, str) else model,
        (FIRST_AUTO_BATCH,) if auto else [int(size) for size in batch_sizes],
        modes,
        dtypes,
        parallel,
        devices,
        steps_per_dispatch,
        image_size=image_size,
        steps=steps,
        memory_limit=memory_limit,
        model_options=tuple(model_options),
    )

    def measure(case: Case, report: Callable[[str], None]) -> Row:
        return measure_isolated(case, report, timeout=timeout)

    return measure_cases(cases, auto_batch=auto, on_row=on_row, listen=listen, measure=measure)


def measure_cases(
    cases: Sequence[Case],
    *,
    auto_batch: bool = False,
    on_row: Callable[[Row], None] = lambda row: None,
    listen: Listener = lambda case, stage: None,
    measure: Measure = measure_isolated,
) -> list[Row]:
    """Measure cases one after another.

    Args:
      cases: the cases.
      auto_batch: whether to measure each case again with a doubled batch size until a row fails.
      on_row, listen: as in `benchmark`.
      measure: measures one case.

    Returns:
      The rows, with scaling efficiencies.

    >>> cases = grid(["lenet5"], batch_sizes=(8, 16))
    >>> rows = measure_cases(cases, measure=lambda case, report: {"size": case.batch_size})
    >>> [row["size"] for row in rows]
    [8, 16]
    """
    rows: list[Row] = []
    for case in cases:
        for current in _double_batch(case, rows) if auto_batch else (case,):
            listen(current, "starting")
            rows.append(measure(current, partial(listen, current)))
            add_scaling(rows)
            on_row(rows[-1])
    return rows


def _double_batch(case: Case, rows: list[Row]) -> Iterator[Case]:
    """Yield the case with doubled batch sizes until the last of `rows`, to which the caller appends, has an error.

    The first size is the smallest multiple of the number of devices that is not below that of the case.
    """
    devices = case.devices or 1
    size = math.ceil(case.batch_size / devices) * devices
    while size <= LAST_AUTO_BATCH:
        yield replace(case, batch_size=size)
        if rows[-1]["error"]:
            return
        size *= 2


def describe_row(row: Row) -> dict[str, Any]:
    """Return the columns that identify the case of a row. A second measurement of the case has the same values."""
    names = ("model", "model_options", "image_size", "batch_size", "mode", "dtype", "parallel", "devices")
    names += ("steps_per_dispatch",)
    return {name: row.get(name) for name in names}
