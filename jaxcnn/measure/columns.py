"""The columns of a row: in which order they stand, what they mean, how they are printed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """A column of the results.

    Attributes:
      name: in JSON and CSV.
      title: in tables for people; empty for those that are only in the files.
      meaning: one sentence.
      show: a value as text.
    """

    name: str
    title: str
    meaning: str
    show: Callable[[Any], str] = str


def show_bytes(value: float) -> str:
    """Bytes with three digits and a unit."""
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
    Column("model", "model", "name of the architecture"),
    Column("params", "params", "trainable parameters", "{:,}".format),
    Column("gmacs", "GMACs", "10^9 multiply-adds of the forward pass of one image", "{:.3g}".format),
    Column("image_size", "image", "height x width x channels"),
    Column("batch_size", "batch", "images in a step, over all devices together"),
    Column("mode", "mode", "train: one update; infer: forward pass and loss"),
    Column("dtype", "dtype", "of the computation; parameters are float32"),
    Column("parallel", "parallel", "how the step is spread over the devices"),
    Column("steps_per_dispatch", "", "steps that one call of the compiled program makes"),
    Column("devices", "devices", "how many share the batch"),
    Column("fake_devices", "", "whether these are CPU devices that share the machine's cores"),
    Column("device_kind", "device", "of a CPU, the processor's name and number of cores"),
    Column("platform", "", "JAX's name of the kind of device"),
    Column("jax", "", "version"),
    Column("jaxlib", "", "version"),
    Column("flax", "", "version"),
    Column("jaxcnn", "", "version"),
    Column("python", "", "version"),
    Column("xla_flags", "", "the environment variable XLA_FLAGS"),
    Column(
        "convolutions", "", "what computes convolutions: XLA, or on a CPU oneDNN, some of them by Winograd's algorithm"
    ),
    Column("freed_memory", "", "whether the process keeps it for its next step, or returns it to the system"),
    Column("trace_seconds", "", "seconds of tracing and lowering, before XLA compiles"),
    Column("compile_seconds", "compile s", "seconds to trace and compile with an empty cache", "{:.2f}".format),
    Column("compile_seconds_cached", "cached s", "the same with the program in the persistent cache", "{:.2f}".format),
    Column("step_ms", "step ms", "median of the samples, in milliseconds a step", _milliseconds),
    Column("step_ms_p95", "p95 ms", "95 % of the samples are no longer", _milliseconds),
    Column("spread", "", "interquartile range of the samples as a share of their median"),
    Column("latency_ms", "", "median of steps that are each waited for alone"),
    Column("images_per_second", "images/s", "batch size by the median step", _number),
    Column("images_per_second_per_device", "per device", "the same for one device", _number),
    Column("flops_per_step", "", "2 x multiply-adds x batch, three times in training"),
    Column("tflops", "", "10^12 operations a second reached by that count"),
    Column("mfu", "MFU", "model FLOPs utilisation: that share of the devices' peak", _percent),
    Column("peak_tflops", "", "peak of all devices together"),
    Column("peak_source", "peak", "data sheet, or measured by a matrix product on a device that no table knows"),
    Column("arithmetic", "", "what the peak multiplies in"),
    Column("predicted_bytes", "predicted", "memory that XLA counts for the program, on each device", show_bytes),
    Column("peak_bytes", "peak memory", "most memory in use on a device, where the device tells", show_bytes),
    Column("process_peak_bytes", "process", "most memory of the host that the process had", show_bytes),
    Column("collectives", "", "communications between devices in a step"),
    Column("collective_bytes", "", "bytes that these carry, on each device"),
    Column("scaling", "", "weak: compared at the same batch a device; strong: at the same batch in all"),
    Column("scaling_efficiency", "scaling", "images/s by those of one device times devices", _percent),
    Column("steps", "", "steps that were timed"),
    Column("steps_per_sample", "", "consecutive steps over which each sample is a mean"),
    Column("samples_ms", "", "every sample, milliseconds a step, in the order in which they were taken"),
    Column("host_cpus", "", "cores of the host"),
    Column("load", "", "the host's load average over the minute before the row"),
    Column("date", "", "when, in UTC"),
    Column("error", "error", "why there are no times"),
    Column("command", "", "the command that measures this row again"),
)

BY_NAME = {column.name: column for column in COLUMNS}


def shown(row: dict[str, Any], name: str) -> str:
    """A row's value in a column as text; nothing where there is none."""
    value = row.get(name)
    return "" if value is None else BY_NAME[name].show(value)


def varying(rows: list[dict[str, Any]]) -> list[str]:
    """Names of the titled columns that some row has a value in."""
    return [c.name for c in COLUMNS if c.title and any(row.get(c.name) is not None for row in rows)]
