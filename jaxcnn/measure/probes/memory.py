"""Memory: what a compiled program is predicted to need, what the device measured, what there is."""

import resource
import sys
from pathlib import Path
from typing import Any


def predicted_bytes(compiled: Any) -> int | None:
    """Bytes that a compiled program needs on each device: arguments, results and all between, counted once.

    What the program writes over its arguments (a donated state) is in both and counted once.
    """
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    return (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        + stats.temp_size_in_bytes
        + stats.generated_code_size_in_bytes
        - stats.alias_size_in_bytes
    )


def measured_peak_bytes(devices: Any) -> int | None:
    """The most bytes in use on any of the devices since the process began; None where they do not tell (CPUs)."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in devices]
    known = [peak for peak in peaks if peak is not None]
    return max(known) if known else None


def process_peak_bytes() -> int:
    """The most memory of the host that this process has had, JAX and Python included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_bytes(device: Any) -> int | None:
    """Bytes that a program may still take on the device; on a CPU, of the machine. None if not known."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if device.platform == "cpu":
        return host_free_bytes()
    return None


def host_free_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Memory of the machine that is free or can be freed, on Linux."""
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
