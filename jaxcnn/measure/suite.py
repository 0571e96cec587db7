"""Many rows, one fresh process each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
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
    timeout: float | None = None,
    on_row: Callable[[Row], None] = lambda row: None,
    listen: Listener = lambda case, doing: None,
) -> list[Row]:
    """Measures every combination of what is given, each in a fresh process, and returns its rows.

    A row that fails, or whose process is killed, has an `error` in place of its times. Columns are explained in
    `jaxcnn.measure.columns`.

    Args:
      model: one name or several.
      batch_sizes: over all devices together; "auto" doubles the batch until memory ends, and the row in which it
        does is the last.
      modes, dtypes, parallel, devices, steps_per_dispatch, image_size, steps, memory_limit: as in `Case`.
      timeout: seconds that a row may take.
      on_row: called with each row as soon as it is measured.
      listen: called with the case that is being measured and with what is being done.

    Raises:
      UsageError: a value that cannot work, before anything is measured if that can be known.
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
    )

    def measure(case: Case, report: Callable[[str], None]) -> Row:
        return measure_isolated(case, report, timeout=timeout)

    return measure_cases(cases, auto_batch=auto, on_row=on_row, listen=listen, measure=measure)


def measure_cases(
    cases: Sequence[Case],
    *,
    auto_batch: bool = False,
    on_row: Callable[[Row], None] = lambda row: None,
    listen: Listener = lambda case, doing: None,
    measure: Measure = measure_isolated,
) -> list[Row]:
    """Measures cases one after another; with `auto_batch`, each with twice the batch again until one fails."""
    rows: list[Row] = []
    for case in cases:
        for sized in _doubling(case, rows) if auto_batch else (case,):
            listen(sized, "starting")
            rows.append(measure(sized, lambda doing, sized=sized: listen(sized, doing)))
            add_scaling(rows)
            on_row(rows[-1])
    return rows


def _doubling(case: Case, rows: list[Row]) -> Iterator[Case]:
    """The case with growing batches, as long as the last row is none of a failure."""
    size = max(case.batch_size, case.devices or 1)
    while size <= LAST_AUTO_BATCH:
        yield replace(case, batch_size=size)
        if rows[-1]["error"]:
            return
        size *= 2


def describe_row(row: Row) -> dict[str, Any]:
    """What identifies a row among others: equal in a rerun."""
    names = ("model", "image_size", "batch_size", "mode", "dtype", "parallel", "devices", "steps_per_dispatch")
    return {name: row.get(name) for name in names}
