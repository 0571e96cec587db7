"""Return the peak floating-point performance of a device, from its data sheet or from a measurement."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.hardware import PEAKS, Peak, look_up
from jaxcnn.measure.probes.timing import time_step

__all__ = ["PEAKS", "Peak", "device_peak", "look_up", "measure_peak"]


def measure_peak(
    dtype: str, device: Any = None, seconds: float = 1.0, clock: Callable[[], float] = time.perf_counter
) -> Peak:
    """Measure the peak FLOP/s of a device with square matrix products of increasing size, and return the best rate.

    Other work on the machine lowers the measured peak. Utilization that is computed from this peak is then too high.

    Args:
      dtype: dtype of the matrices.
      device: the device to measure. Default: JAX's default device.
      seconds: approximate duration of the measurement in seconds.
      clock: function that returns the time in seconds.

    >>> measure_peak("float32", seconds=0.01).source
    'measured'
    """
    size, started = 256, clock()
    best = 0.0
    while True:
        x = jax.device_put(jnp.full((size, size), 0.5, dtype), device)
        timing = time_step(jax.jit(lambda x: x @ x), x, steps=3, min_window=0.01, clock=clock)
        best = max(best, 2 * size**3 / min(timing.samples))
        # Larger matrix products come closer to the peak. Doubling the size multiplies the time by eight.
        if size >= 16384 or clock() - started + 8 * sum(timing.samples) * timing.window > seconds:
            return Peak(best, "measured", {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}.get(dtype, dtype))
        size *= 2


def device_peak(device: Any, dtype: str) -> Peak:
    """Return the peak FLOP/s of a device for a compute dtype: from its data sheet if known, otherwise measured.

    >>> from types import SimpleNamespace
    >>> device_peak(SimpleNamespace(device_kind="TPU v5 lite"), "bfloat16").flops  # of jax.devices()[0], on a TPU v5e
    197000000000000.0
    """
    known = look_up(device.device_kind, dtype, jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]
    if known is not None:
        return known
    # A CPU without 16-bit arithmetic computes 16-bit convolutions in float32, so the peak is that of the faster dtype.
    return max((measure_peak(name, device) for name in {dtype, "float32"}), key=lambda peak: peak.flops)
