"""Scaling efficiency: how much of N devices' speed is left when N devices share the work."""

from collections.abc import Sequence
from typing import Any

_ALIKE = ("model", "image_size", "mode", "dtype", "parallel", "steps_per_dispatch", "device_kind")


def add_scaling(rows: Sequence[dict[str, Any]]) -> None:
    """Fills in the columns `scaling` and `scaling_efficiency` of rows that have a like with fewer devices.

    The efficiency is the images per second of N devices, divided by N times those of one (or, in general, by N / M
    times those of the fewest, M). "weak" scaling compares rows with the same batch on each device; where there are
    none, "strong" scaling compares rows with the same batch in all. Fake devices share the cores of one machine, so
    that N of them cannot be faster than one: there the efficiency is the share of one's speed that is left.
    """
    measured = [row for row in rows if row.get("images_per_second")]
    for row in measured:
        row["scaling"], row["scaling_efficiency"] = None, None
        for kind, batch in (("weak", _batch_per_device), ("strong", _batch)):
            alike = [
                other
                for other in measured
                if batch(other) == batch(row) and all(other.get(name) == row.get(name) for name in _ALIKE)
            ]
            base = min(alike, key=lambda other: other["devices"])
            if base["devices"] < row["devices"]:
                ideal = 1.0 if row["fake_devices"] else row["devices"] / base["devices"]
                row["scaling"] = kind
                row["scaling_efficiency"] = row["images_per_second"] / (ideal * base["images_per_second"])
                break


def _batch_per_device(row: dict[str, Any]) -> float:
    return row["batch_size"] / row["devices"]


def _batch(row: dict[str, Any]) -> int:
    return row["batch_size"]
