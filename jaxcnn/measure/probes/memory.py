"""Read the memory that XLA predicts for a compiled program, the peak memory of a device or host, and free memory."""

import resource
import sys
from pathlib import Path
from typing import Any


def predicted_bytes(compiled: Any) -> int | None:
    """Return the bytes per device that XLA predicts for a compiled program, or None if XLA makes no prediction.

    The sum covers arguments, outputs, temporaries and code. Donated arguments share their memory with outputs, so this
    memory counts once.
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
    """Return the largest peak of bytes in use on a device since the process started, or None if it is unknown (CPU)."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in devices]
    known = [peak for peak in peaks if peak is not None]
    return max(known) if known else None


def process_peak_bytes() -> int:
    """Return the peak resident memory of this process on the host in bytes, including JAX and Python."""
    # macOS reports bytes; Linux reports KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_bytes(device: Any) -> int | None:
    """Return the free bytes of the memory of a device (of the host's memory for a CPU), or None if they are unknown."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if device.platform == "cpu":
        return host_free_bytes()
    return None


def host_free_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return the bytes of host memory that are free or can be reclaimed, or None on systems other than Linux."""
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
