"""Return the peak floating-point performance of a device, from its data sheet or from a measurement.

Sources: data sheets of NVIDIA V100, T4, A10, A100, L4, L40S, H100, H200 and B200 (dense, without sparsity), and the
Google Cloud documentation of TPU v3 to v6e. A TPU v3 device is one of the two cores of a chip.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.measure.probes.timing import time_step


@dataclass(frozen=True)
class Peak:
    """Peak performance of one device.

    Attributes:
      flops: floating-point operations per second; a multiply-add is two operations.
      source: "data sheet", or "measured" for a device that is not in `PEAKS`.
      arithmetic: number format of the multiplications, such as "bf16"; "tf32" for float32 on NVIDIA tensor cores.
    """

    flops: float
    source: str
    arithmetic: str


# TFLOP/s by prefix of the device kind; the longest matching prefix wins. "16" means bfloat16 and float16.
PEAKS: dict[str, dict[str, float]] = {
    "NVIDIA B200": {"16": 2250, "tf32": 1125, "f32": 75},
    "NVIDIA GH200": {"16": 989.4, "tf32": 494.7, "f32": 67},
    "NVIDIA H200": {"16": 989.4, "tf32": 494.7, "f32": 67},
    "NVIDIA H100 80GB HBM3": {"16": 989.4, "tf32": 494.7, "f32": 67},
    "NVIDIA H100 PCIe": {"16": 756, "tf32": 378, "f32": 51},
    "NVIDIA H100 NVL": {"16": 835, "tf32": 417, "f32": 60},
    "NVIDIA A100": {"16": 312, "tf32": 156, "f32": 19.5},
    "NVIDIA L40S": {"16": 362, "tf32": 183, "f32": 91.6},
    "NVIDIA L4": {"16": 121, "tf32": 60, "f32": 30.3},
    "NVIDIA A10": {"16": 125, "tf32": 62.5, "f32": 31.2},
    "NVIDIA A10G": {"16": 70, "tf32": 35, "f32": 31.2},
    "Tesla V100-SXM2": {"float16": 125, "f32": 15.7},
    "Tesla V100-PCIE": {"float16": 112, "f32": 14},
    "Tesla T4": {"float16": 65, "f32": 8.1},
    "TPU v3": {"16": 61.5},
    "TPU v4": {"16": 275},
    "TPU v5 lite": {"16": 197},
    "TPU v5": {"16": 459},
    "TPU v5p": {"16": 459},
    "TPU v6 lite": {"16": 918},
}


def look_up(kind: str, dtype: str, precision: str | None = None) -> Peak | None:
    """Return the peak of a kind of device from its data sheet, or None if `PEAKS` has no entry.

    Args:
      kind: `device.device_kind`.
      dtype: "float32", "bfloat16" or "float16".
      precision: value of `jax_default_matmul_precision`. "highest" and "float32" select full float32 arithmetic;
        otherwise accelerators round the factors of float32 products to a shorter format.

    >>> look_up("NVIDIA H100 80GB HBM3", "bfloat16")
    Peak(flops=989400000000000.0, source='data sheet', arithmetic='bf16')
    """
    names = [name for name in PEAKS if kind.startswith(name)]
    if not names:
        return None
    figures = PEAKS[max(names, key=len)]
    if dtype != "float32":
        formats = (dtype, "16")
    elif precision in ("highest", "float32"):
        formats = ("f32",)
    elif kind.startswith("TPU"):
        formats = ("tf32", "16")
    else:
        formats = ("tf32", "f32")
    labels = {"16": "f16" if dtype == "float16" else "bf16", "float16": "f16"}
    for name in formats:
        if name in figures:
            return Peak(figures[name] * 1e12, "data sheet", labels.get(name, name))
    return None


def measure_peak(
    dtype: str, device: Any = None, seconds: float = 1.0, clock: Callable[[], float] = time.perf_counter
) -> Peak:
    """Measure the peak of a device with square matrix products of increasing size, and return the best one.

    Other work on the machine lowers the result, and utilization computed from it is then too high.

    Args:
      dtype: dtype of the matrices.
      device: the device (default: JAX's default device).
      seconds: approximate duration of the measurement.
      clock: returns the time in seconds.
    """
    size, started = 256, clock()
    best = 0.0
    while True:
        x = jax.device_put(jnp.full((size, size), 0.5, dtype), device)
        timing = time_step(jax.jit(lambda x: x @ x), x, steps=3, min_window=0.01, clock=clock)
        best = max(best, 2 * size**3 / min(timing.samples))
        # Larger products come closer to the peak. Doubling the size multiplies the time by eight.
        if size >= 16384 or clock() - started + 8 * sum(timing.samples) * timing.window > seconds:
            return Peak(best, "measured", {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}.get(dtype, dtype))
        size *= 2


def device_peak(device: Any, dtype: str) -> Peak:
    """Return the peak of a device for a compute dtype: from its data sheet if known, otherwise measured."""
    known = look_up(device.device_kind, dtype, jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]
    if known is not None:
        return known
    # A CPU without 16-bit arithmetic computes 16-bit convolutions in float32, so the faster dtype is the peak.
    return max((measure_peak(name, device) for name in {dtype, "float32"}), key=lambda peak: peak.flops)
