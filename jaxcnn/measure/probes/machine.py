"""Where a row was measured: devices, versions, processor, how busy the machine was."""

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from jaxcnn import kernels, startup
from jaxcnn.version import __version__


def describe() -> dict[str, Any]:
    """The columns of a row that tell the place and the time."""
    return {
        "device_kind": device_name(jax.local_devices()[0]),
        "platform": jax.local_devices()[0].platform,
        "jax": package_version("jax"),
        "jaxlib": package_version("jaxlib"),
        "flax": package_version("flax"),
        "jaxcnn": __version__,
        "python": platform.python_version(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "convolutions": kernels.describe(),
        "freed_memory": "kept" if startup.keeps_freed_memory() else "returned",
        "host_cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "date": now(),
    }


def now() -> str:
    """The date and time, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def device_name(device: Any) -> str:
    """The device's kind; of a CPU, the processor's name and number of cores, which JAX does not tell."""
    return host_name() if device.platform == "cpu" else device.device_kind


def host_name() -> str:
    """The processor's name as the system has it, and its number of cores."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores"


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
