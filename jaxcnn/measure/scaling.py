"""Add the scaling efficiency to the rows that were measured on several devices."""

from collections.abc import Sequence
from typing import Any

_EQUAL_COLUMNS = (
    *("model", "model_options", "image_size", "mode", "dtype", "parallel", "steps_per_dispatch", "device_kind"),
)


def add_scaling(rows: Sequence[dict[str, Any]]) -> None:
    """Set the columns `scaling` and `scaling_efficiency` of rows that have a baseline with fewer devices.

    The baseline of a row is the comparable row with the fewest devices:

    - "weak" scaling compares rows with the same batch per device;
    - "strong" scaling compares rows with the same global batch, if no row has the same batch per device.

    The scaling efficiency is throughput / (devices x throughput of one device). If the baseline has M > 1 devices, the
    efficiency is throughput / (devices / M x throughput of the baseline). Fake devices, which JAX simulates on a CPU,
    share the cores of one machine and add no compute, so their efficiency is throughput / throughput of the baseline.

    >>> rows = [
    ...     {"batch_size": 64, "devices": 1, "images_per_second": 1000.0, "fake_devices": False},
    ...     {"batch_size": 512, "devices": 8, "images_per_second": 7200.0, "fake_devices": False},
    ... ]
    >>> add_scaling(rows)
    >>> rows[1]["scaling"], rows[1]["scaling_efficiency"]
    ('weak', 0.9)
    """
    measured = [row for row in rows if row.get("images_per_second")]
    for row in measured:
        row["scaling"], row["scaling_efficiency"] = None, None
        for kind, batch in (("weak", _batch_per_device), ("strong", _batch)):
            comparable = [
                other
                for other in measured
                if batch(other) == batch(row) and all(other.get(name) == row.get(name) for name in _EQUAL_COLUMNS)
            ]
            baseline = min(comparable, key=lambda other: other["devices"])
            if baseline["devices"] < row["devices"]:
                ideal_speedup = 1.0 if row["fake_devices"] else row["devices"] / baseline["devices"]
                row["scaling"] = kind
                row["scaling_efficiency"] = row["images_per_second"] / (ideal_speedup * baseline["images_per_second"])
                break


def _batch_per_device(row: dict[str, Any]) -> float:
    return row["batch_size"] / row["devices"]


def _batch(row: dict[str, Any]) -> int:
    return row["batch_size"]
