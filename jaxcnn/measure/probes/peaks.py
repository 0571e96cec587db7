"""What a device could do at best: floating-point operations a second, from its data sheet, or measured.

Sources: the data sheets of NVIDIA's V100, T4, A10, A100, L4, L40S, H100, H200 and B200, dense (without sparsity), and
Google Cloud's pages on TPU v3 to v6e. A device of TPU v3 is one of a chip's two cores.
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
    """The most operations (a multiply-add is two) that one device does in a second.

    Attributes:
      flops: operations a second.
      source: "data sheet", or "measured" for a device that the table does not know.
      arithmetic: what it multiplies in, such as "bf16", or "tf32" for float32 on NVIDIA's tensor cores.
    """

    flops: float
    source: str
    arithmetic: str


# TFLOP/s by the beginning of the device's kind; of several, the longest counts. "16" is bfloat16 and float16.
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


def _in_full(precision: str | None) -> bool:
    """Whether float32 is multiplied as such: by default accelerators round its factors to fewer digits."""
    return precision in ("highest", "float32")


def look_up(kind: str, dtype: str, precision: str | None = None) -> Peak | None:
    """The data sheet's figure for a device of this kind, if the table has one.

    Args:
      kind: `device.device_kind`.
      dtype: "float32", "bfloat16" or "float16".
      precision: `jax_default_matmul_precision`, which decides what float32 is multiplied in.

    >>> look_up("NVIDIA H100 80GB HBM3", "bfloat16")
    Peak(flops=989400000000000.0, source='data sheet', arithmetic='bf16')
    """
    names = [name for name in PEAKS if kind.startswith(name)]
    if not names:
        return None
    figures = PEAKS[max(names, key=len)]
    if dtype == "float32":
        # A TPU multiplies float32 in bfloat16 unless told otherwise.
        order = ["f32"] if _in_full(precision) else ["tf32", "16" if kind.startswith("TPU") else "f32"]
    else:
        order = [dtype, "16"]
    labels = {"16": "f16" if dtype == "float16" else "bf16", "float16": "f16"}
    return next((Peak(figures[n] * 1e12, "data sheet", labels.get(n, n)) for n in order if n in figures), None)


def measure_peak(
    dtype: str, device: Any = None, seconds: float = 1.0, clock: Callable[[], float] = time.perf_counter
) -> Peak:
    """What a square matrix product reaches on the device, the best of several, in about so many seconds.

    On a machine with other work to do it is less than the device could, and a share of it is then too large.
    """
    size, started = 256, clock()
    best = 0.0
    while True:
        x = jax.device_put(jnp.full((size, size), 0.5, dtype), device)
        timing = time_step(jax.jit(lambda x: x @ x), x, steps=3, min_window=0.01, clock=clock)
        best = max(best, 2 * size**3 / min(timing.samples))
        # Larger products come nearer to the peak; each doubling takes eight times as long.
        if size >= 16384 or clock() - started + 8 * sum(timing.samples) * timing.window > seconds:
            return Peak(best, "measured", {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}.get(dtype, dtype))
        size *= 2


def device_peak(device: Any, dtype: str) -> Peak:
    """The peak of a device in a dtype: of its data sheet, or else measured."""
    known = look_up(device.device_kind, dtype, jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]
    if known is not None:
        return known
    # A CPU may have no arithmetic of 16 bits, and convolve in float32 all the same: the faster one is the peak.
    return max((measure_peak(name, device) for name in {dtype, "float32"}), key=lambda peak: peak.flops)
