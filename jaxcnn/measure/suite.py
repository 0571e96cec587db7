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
      model: the name of a model, or a list of names.
      batch_sizes: images per step over all devices. "auto" tries 8, 16, 32, ... until memory runs out; the last row is
        the batch size that failed. The sizes are multiples of the number of devices: 9, 18, 36, ... for 3 devices.
      modes, dtypes, parallel, devices, steps_per_dispatch, image_size, steps, memory_limit, model_options: fields of
        `Case`.
      timeout: time limit per row in seconds.
      on_row: function that is called with each row when it is complete.
      listen: function that is called with the current case and its current stage, such as "compiling".

    Returns:
      One row per case. `jaxcnn.measure.columns` defines the columns of a row. If a case failed or its process was
      killed, the row has an `error` and no times.

    Raises:
      UsageError: if a value is invalid. Values that do not depend on the devices are checked before the first
        measurement starts.

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
    """Measure cases one after another, and return their rows with scaling efficiencies.

    Args:
      cases: the cases to measure.
      auto_batch: whether to measure each case again with a doubled batch size until a row fails.
      on_row: function that is called with each row when it is complete.
      listen: function that is called with the current case and its current stage, such as "compiling".
      measure: function that measures one case, given the case and a function to call with the current stage.

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
    """Yield the case with doubled batch sizes until the last row in `rows` has an error.

    The caller appends the row of each yielded case to `rows`. The first batch size is the batch size of `case`,
    rounded up to a multiple of the number of devices.
    """
    devices = case.devices or 1
    size = math.ceil(case.batch_size / devices) * devices
    while size <= LAST_AUTO_BATCH:
        yield replace(case, batch_size=size)
        if rows[-1]["error"]:
            return
        size *= 2


def describe_row(row: Row) -> dict[str, Any]:
    """Return the columns of a row that identify its case. All rows of a case have the same values in these columns."""
    names = ("model", "model_options", "image_size", "batch_size", "mode", "dtype", "parallel", "devices")
    names += ("steps_per_dispatch",)
    return {name: row.get(name) for name in names}
