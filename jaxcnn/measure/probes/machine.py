"""Describe the machine of a measurement: devices, package versions, processor and load."""

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from jaxcnn import kernels, startup
from jaxcnn.version import __version__


def describe(dtype: str = "float32") -> dict[str, Any]:
    """Return the columns that describe the machine, the software and the time of a measurement.

    Args:
      dtype: compute dtype of the measurement, which decides the library for convolutions.
    """
    return {
        "device_kind": device_name(jax.local_devices()[0]),
        "platform": jax.local_devices()[0].platform,
        "jax": package_version("jax"),
        "jaxlib": package_version("jaxlib"),
        "flax": package_version("flax"),
        "jaxcnn": __version__,
        "python": platform.python_version(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "convolutions": kernels.describe(dtype),
        "freed_memory": "kept" if startup.keeps_freed_memory() else "returned",
        "host_cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "date": now(),
    }


def now() -> str:
    """Return the date and time in UTC, in ISO 8601 format."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def device_name(device: Any) -> str:
    """Return the kind of a device, such as "TPU v5 lite". For a CPU, return `host_name()`: JAX reports only "cpu"."""
    return host_name() if device.platform == "cpu" else device.device_kind


def host_name() -> str:
    """Return the name of the processor and its number of cores, as the operating system reports them."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores"


def package_version(name: str) -> str | None:
    """Return the version of an installed package, or None if the package is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
