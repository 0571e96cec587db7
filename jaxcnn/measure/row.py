"""One row: a case measured in this process. `jaxcnn.measure._isolate` does it in a process of its own."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxcnn.analysis import summarize
from jaxcnn.errors import RunError, UsageError
from jaxcnn.measure.case import Case
from jaxcnn.measure.columns import show_bytes
from jaxcnn.measure.probes import machine, memory
from jaxcnn.measure.probes.collectives import collectives
from jaxcnn.measure.probes.compiling import fresh_compilation_cache
from jaxcnn.measure.probes.peaks import device_peak
from jaxcnn.measure.probes.program import Program, build, build_model, choose_devices, step_flops
from jaxcnn.measure.probes.timing import Timing, time_step, train_advance

Row = dict[str, Any]
Report = Callable[[str], None]

LATENCY_STEPS = 20


class NotEnoughMemoryError(RunError):
    """A program that is predicted to need more memory than there is."""


def case_columns(case: Case) -> Row:
    """The columns that are known before anything is measured."""
    return {
        "model": case.model,
        "image_size": "x".join(map(str, case.image_shape)),
        "batch_size": case.batch_size,
        "mode": case.mode,
        "dtype": case.dtype,
        "parallel": case.parallel,
        "devices": case.devices,
        "steps_per_dispatch": case.steps_per_dispatch,
        "error": None,
        "command": case.command(),
    }


def measure_case(case: Case, report: Report = lambda what: None) -> Row:
    """Measures a case in this process.

    Returns:
      the row. If memory ended, or was predicted to, or anything else failed, its `error` says so in one line, and
      the columns that were known by then are there.

    Args:
      case: what to measure.
      report: called with what is being done, now and then.

    Raises:
      UsageError: a case that cannot work on the devices there are.
    """
    case = dataclasses.replace(case, devices=len(choose_devices(case.devices)))
    row = {**case_columns(case), **machine.describe()}
    row["fake_devices"] = row["platform"] == "cpu" and row["devices"] > 1
    try:
        with fresh_compilation_cache():
            _measure(case, row, report)
    except UsageError:
        raise
    except Exception as error:
        row["error"] = one_line(error)
    return row


def one_line(error: BaseException) -> str:
    """What went wrong in one line; memory that ended, in whichever way it is told, is called "out of memory"."""
    said = str(error).strip()
    line = said.splitlines()[0][:300] if said else type(error).__name__
    ended = isinstance(error, MemoryError) or any(
        sign in said for sign in ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "bad_alloc")
    )
    return f"out of memory: {line}" if ended and not line.startswith("out of memory") else line


def _measure(case: Case, row: Row, report: Report) -> None:
    """Fills in the row, column by column, so that what fails leaves what came before."""
    report("counting operations")
    model = build_model(case)
    summary = summarize(model, case.image_shape)
    row["params"], row["gmacs"] = summary.params, summary.macs / 1e9
    row["flops_per_step"] = step_flops(case)

    report("compiling")
    cold = build(case)
    row["trace_seconds"] = cold.trace_seconds
    row["compile_seconds"] = cold.trace_seconds + cold.compile_seconds
    found = collectives(cold.compiled)
    # With one device nothing travels, though the program may still have the instruction.
    row["collectives"] = len(found) if row["devices"] > 1 else 0
    row["collective_bytes"] = sum(c.bytes for c in found) if row["devices"] > 1 else 0
    row["predicted_bytes"] = memory.predicted_bytes(cold.compiled)
    _check_memory(case, row)
    del cold

    report("compiling again, from the cache")
    jax.clear_caches()
    program = build(case)
    row["compile_seconds_cached"] = program.trace_seconds + program.compile_seconds

    report("warming up")
    timing, latency = _time(case, program, report)
    devices = choose_devices(case.devices)
    row["peak_bytes"] = memory.measured_peak_bytes(devices)
    row["process_peak_bytes"] = memory.process_peak_bytes()
    row |= timing_columns(case, timing)
    row["latency_ms"] = 1e3 * latency.median / case.steps_per_dispatch
    del program

    report("peak of the device")
    peak = device_peak(devices[0], case.dtype)
    # Fake devices share the machine's cores: all of them together have the peak of one.
    whole = peak.flops * (1 if row["fake_devices"] else len(devices))
    row["peak_tflops"], row["peak_source"], row["arithmetic"] = whole / 1e12, peak.source, peak.arithmetic
    row["tflops"] = row["flops_per_step"] / row["step_ms"] / 1e9
    # A peak that was measured while the machine did other things may be below what was reached: it is no peak then.
    row["mfu"] = row["tflops"] / row["peak_tflops"] if row["tflops"] <= row["peak_tflops"] else None


def timing_columns(case: Case, timing: Timing) -> Row:
    """The columns that follow from the times of the program's calls."""
    per_step = 1 / case.steps_per_dispatch
    rate = case.batch_size / (timing.median * per_step)
    return {
        "step_ms": 1e3 * timing.median * per_step,
        "step_ms_p95": 1e3 * timing.p95 * per_step,
        "spread": timing.spread,
        "images_per_second": rate,
        "images_per_second_per_device": rate / (case.devices or 1),
        "samples_ms": [round(1e3 * sample * per_step, 5) for sample in timing.samples],
        "steps_per_sample": timing.window * case.steps_per_dispatch,
        "steps": len(timing.samples) * timing.window * case.steps_per_dispatch,
    }


def _time(case: Case, program: Program, report: Report) -> tuple[Timing, Timing]:
    """Times calls back to back, and each alone: the latency, which differs only where calls are short."""
    advance = train_advance if case.mode == "train" else None
    args = program.args

    def step(*given: Any) -> Any:
        nonlocal args
        output = program.compiled(*given)
        args = given if advance is None else advance(given, output)
        return output

    calls = -(-case.steps // case.steps_per_dispatch)

    def on_sample(done: int, total: int) -> None:
        report(f"sample {done} of {total}")

    timing = time_step(step, *args, steps=calls, advance=advance, on_sample=on_sample)
    if timing.window == 1:
        return timing, timing
    return timing, time_step(step, *args, steps=LATENCY_STEPS, advance=advance, min_window=0.0)


def _check_memory(case: Case, row: Row) -> None:
    needed, device = row["predicted_bytes"], jax.local_devices()[0]
    # Fake devices take their memory from the same machine.
    times = case.devices or 1 if row["fake_devices"] else 1
    limit = case.memory_limit
    if limit is None and device.platform == "cpu":  # which would not refuse, but end the process or others
        free = memory.free_bytes(device)
        limit = None if free is None else free // times
    if needed is not None and limit is not None and needed > limit:
        raise NotEnoughMemoryError(
            f"out of memory: needs {show_bytes(needed)} on each device by XLA's own count, {show_bytes(limit)} "
            f"{'are free' if case.memory_limit is None else 'are the limit'}; not run"
        )
