"""Define the columns of the rows of measurements: their order, titles, meanings and text formats."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """A column of the results.

    Attributes:
      name: key of the column in JSON and CSV.
      title: heading of the column in printed tables; empty if the column is only in JSON and CSV.
      meaning: description of the column, with the unit.
      format: function that converts a value of the column to text.
    """

    name: str
    title: str
    meaning: str
    format: Callable[[Any], str] = str


def format_bytes(value: float) -> str:
    """Return a number of bytes as text with three significant digits and a binary unit.

    >>> format_bytes(246_824)
    '241 KiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _milliseconds(value: float) -> str:
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


COLUMNS = (
    Column("model", "model", "name of the model"),
    Column("model_options", "options", "fields of the model that were changed"),
    Column("params", "params", "number of trainable parameters", "{:,}".format),
    Column("gmacs", "GMACs", "multiply-adds in the forward pass of one image, in units of 10^9", "{:.3g}".format),
    Column("image_size", "image", "image shape: height x width x channels"),
    Column("batch_size", "batch", "images per step, over all devices"),
    Column("mode", "mode", "train: one optimizer step; infer: forward pass and loss"),
    Column("dtype", "dtype", "compute dtype; parameters are float32"),
    Column("parallel", "parallel", "how the step is distributed: pmap, shard_map or jit"),
    Column("steps_per_dispatch", "", "training steps per call of the compiled program"),
    Column("devices", "devices", "number of devices that share the batch"),
    Column("fake_devices", "", "true if the devices are simulated CPU devices that share the cores of one machine"),
    Column("device_kind", "device", "kind of device; for a CPU, the processor's name and number of cores"),
    Column("platform", "", "JAX platform: cpu, gpu or tpu"),
    Column("jax", "", "version of jax"),
    Column("jaxlib", "", "version of jaxlib"),
    Column("flax", "", "version of flax"),
    Column("jaxcnn", "", "version of jaxcnn"),
    Column("python", "", "version of Python"),
    Column("xla_flags", "", "value of the environment variable XLA_FLAGS"),
    Column("convolutions", "", "library that computes convolutions: XLA, or oneDNN with its CPU instructions"),
    Column("freed_memory", "", "kept: the process keeps freed memory for the next step; returned: the system gets it"),
    Column("trace_seconds", "", "seconds to trace and lower the step, before XLA compiles it"),
    Column("compile_seconds", "compile s", "seconds to trace and compile with an empty cache", "{:.2f}".format),
    Column(
        "compile_seconds_cached",
        "cached compile s",
        "seconds to trace and to load the program from the persistent cache",
        "{:.2f}".format,
    ),
    Column("step_ms", "step ms", "median of the samples, in milliseconds per step", _milliseconds),
    Column("step_ms_p95", "p95 ms", "95th percentile of the samples, in milliseconds per step", _milliseconds),
    Column("spread", "", "interquartile range of the samples, divided by their median"),
    Column("latency_ms", "", "median step time if each call waits for the previous call's result, in milliseconds"),
    Column("images_per_second", "images/s", "throughput: batch size / median step time", _number),
    Column("images_per_second_per_device", "images/s per device", "throughput / number of devices", _number),
    Column("flops_per_step", "", "floating-point operations per step: 2 x multiply-adds x batch, times 3 in training"),
    Column("tflops", "", "achieved operations per second, in units of 10^12"),
    Column("mfu", "MFU", "model FLOPs utilization: tflops / peak_tflops", _percent),
    Column("peak_tflops", "", "peak operations per second of all devices together, in units of 10^12"),
    Column("peak_source", "peak", "source of the peak: data sheet, or measured with a matrix product"),
    Column("arithmetic", "", "number format of the multiplications at the peak, such as bf16 or tf32"),
    Column("predicted_bytes", "predicted memory", "memory per device that XLA predicts for the program", format_bytes),
    Column("peak_bytes", "peak memory", "peak memory of the busiest device, if the device reports it", format_bytes),
    Column("process_peak_bytes", "host peak memory", "peak memory of the process on the host", format_bytes),
    Column("collectives", "", "number of collective operations between devices per step"),
    Column("collective_bytes", "", "bytes in the results of the collective operations, per device"),
    Column("scaling", "", "weak: the baseline has the same batch per device; strong: it has the same global batch"),
    Column(
        "scaling_efficiency",
        "scaling efficiency",
        "throughput / (devices x throughput of one device); for fake devices, throughput / throughput of one device",
        _percent,
    ),
    Column("steps", "", "number of timed steps"),
    Column("steps_per_sample", "", "number of consecutive steps that each sample averages"),
    Column("samples_ms", "", "all samples in order, in milliseconds per step"),
    Column("host_cpus", "", "number of CPU cores of the host"),
    Column("load", "", "load average of the host over the minute before the measurement"),
    Column("date", "", "date and time in UTC"),
    Column("error", "error", "reason why the row has no times"),
    Column("command", "", "command that repeats the measurement"),
)

BY_NAME = {column.name: column for column in COLUMNS}


def format_value(row: dict[str, Any], name: str) -> str:
    """Return a row's value in the column `name` as text, or "" if the row has no value in this column."""
    value = row.get(name)
    return "" if value is None else BY_NAME[name].format(value)


def columns_with_values(rows: list[dict[str, Any]]) -> list[str]:
    """Return the names of the columns that have a title, and a value in at least one of the rows."""
    return [c.name for c in COLUMNS if c.title and any(row.get(c.name) is not None for row in rows)]
