"""Measure one case in this process; `jaxcnn.measure.measure_isolated` uses a fresh process."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from jaxcnn.analysis import summarize
from jaxcnn.errors import RunError, UsageError
from jaxcnn.measure.case import Case
from jaxcnn.measure.columns import format_bytes
from jaxcnn.measure.probes import machine, memory
from jaxcnn.measure.probes.collectives import collectives
from jaxcnn.measure.probes.compiling import fresh_compilation_cache
from jaxcnn.measure.probes.peaks import device_peak
from jaxcnn.measure.probes.program import Program, build, build_model, choose_devices, step_flops
from jaxcnn.measure.probes.timing import Timing, time_step, train_advance

Row = dict[str, Any]
"""A measurement: a dict from column names to values, with the columns that `jaxcnn.measure.columns` defines."""
Report = Callable[[str], None]

LATENCY_STEPS = 20


class NotEnoughMemoryError(RunError):
    """XLA predicts that the program needs more memory than the memory limit."""


def case_columns(case: Case) -> Row:
    """Return the columns of a row that are known before the measurement, such as model and batch size."""
    return {
        "model": case.model,
        "model_options": " ".join(case.model_options) or None,
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


def measure_case(case: Case, report: Report = lambda stage: None) -> Row:
    """Measure a case in this process.

    Args:
      case: the case to measure.
      report: function that is called with the current stage, such as "compiling".

    Returns:
      The row. If a stage fails, the row has the columns that were measured before, and an `error` of one line. A
      program that runs out of memory, or is predicted to run out of memory, counts as such a failure.

    Raises:
      UsageError: if the case cannot run on the available devices.

    >>> measure_case(Case("lenet5", devices=4096))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    jaxcnn.errors.UsageError: the number of devices is more than available: 4096. Give at most ...
    """
    case = dataclasses.replace(case, devices=len(choose_devices(case.devices)))
    row = {**case_columns(case), **machine.describe(case.dtype)}
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
    """Return the message of an error as one line. Every out-of-memory error starts with "out of memory"."""
    message = str(error).strip()
    line = message.splitlines()[0][:300] if message else type(error).__name__
    out_of_memory = isinstance(error, MemoryError) or any(
        sign in message for sign in ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "bad_alloc")
    )
    return f"out of memory: {line}" if out_of_memory and not line.startswith("out of memory") else line


def _measure(case: Case, row: Row, report: Report) -> None:
    """Measure the case, and add each value to `row` at once, so that the row keeps earlier values after a failure."""
    report("counting operations")
    model = build_model(case)
    summary = summarize(model, case.image_shape)
    row["params"], row["gmacs"] = summary.params, summary.macs / 1e9
    row["flops_per_step"] = step_flops(case)

    report("compiling")
    cold = build(case)
    row["trace_seconds"] = cold.trace_seconds
    row["compile_seconds"] = cold.trace_seconds + cold.compile_seconds
    # Collective operations in a program for one device transfer nothing.
    operations = collectives(cold.compiled) if row["devices"] > 1 else []
    row["collectives"] = len(operations)
    row["collective_bytes"] = sum(operation.bytes for operation in operations)
    row["predicted_bytes"] = memory.predicted_bytes(cold.compiled)
    _check_memory(case, row)
    del cold

    report("loading the program from the cache")
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

    report("looking up or measuring peak performance")
    peak = device_peak(devices[0], case.dtype)
    # Simulated devices share the cores of one machine, so all of them together have the peak of one device.
    peak_flops = peak.flops * (1 if row["fake_devices"] else len(devices))
    row["peak_tflops"], row["peak_source"], row["arithmetic"] = peak_flops / 1e12, peak.source, peak.arithmetic
    row["tflops"] = row["flops_per_step"] / row["step_ms"] / 1e9
    # Other work on the machine can lower a measured peak below the achieved rate. MFU would then be meaningless.
    row["mfu"] = row["tflops"] / row["peak_tflops"] if row["tflops"] <= row["peak_tflops"] else None


def timing_columns(case: Case, timing: Timing) -> Row:
    """Return the columns that are computed from the times of the calls of the compiled program."""
    per_step = 1 / case.steps_per_dispatch
    images_per_second = case.batch_size / (timing.median * per_step)
    return {
        "step_ms": 1e3 * timing.median * per_step,
        "step_ms_p95": 1e3 * timing.p95 * per_step,
        "spread": timing.spread,
        "images_per_second": images_per_second,
        "images_per_second_per_device": images_per_second / (case.devices or 1),
        "samples_ms": [round(1e3 * sample * per_step, 5) for sample in timing.samples],
        "steps_per_sample": timing.window * case.steps_per_dispatch,
        "steps": len(timing.samples) * timing.window * case.steps_per_dispatch,
    }


def _time(case: Case, program: Program, report: Report) -> tuple[Timing, Timing]:
    """Return the timing of calls dispatched back to back (throughput) and of calls that wait for results (latency).

    The two timings differ only if calls are short enough to be timed in groups.
    """
    advance = train_advance if case.mode == "train" else None
    args = program.args

    # A step may donate its state, so the latency measurement starts with the last state of the throughput measurement.
    def step(*inputs: Any) -> Any:
        nonlocal args
        output = program.compiled(*inputs)
        args = inputs if advance is None else advance(inputs, output)
        return output

    calls = math.ceil(case.steps / case.steps_per_dispatch)

    def on_sample(done: int, total: int) -> None:
        report(f"sample {done} of {total}")

    timing = time_step(step, *args, steps=calls, advance=advance, on_sample=on_sample)
    if timing.window == 1:
        return timing, timing
    return timing, time_step(step, *args, steps=LATENCY_STEPS, advance=advance, min_window=0.0)


def _check_memory(case: Case, row: Row) -> None:
    """Raise `NotEnoughMemoryError` if the predicted memory of the program exceeds the memory limit.

    If the case has no limit, the limit on a CPU is the free memory, because Linux kills processes that need more.
    Other devices raise an error when memory runs out, so they have no default limit.
    """
    predicted, device = row["predicted_bytes"], jax.local_devices()[0]
    limit, reason = case.memory_limit, "the limit"
    if limit is None and device.platform == "cpu":
        limit, reason = memory.free_bytes(device), "the free memory"
        if limit is not None and row["fake_devices"]:
            limit //= row["devices"]  # fake devices share the memory of one machine
    if predicted is not None and limit is not None and predicted > limit:
        raise NotEnoughMemoryError(
            f"out of memory: XLA predicts that the program needs {format_bytes(predicted)} per device, "
            f"more than {reason} of {format_bytes(limit)}; the program was not run"
        )
