"""Compute lower bounds of the step time on a target, from arithmetic, from memory, and from the links between chips.

Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 2009. This module
adds the links between chips as a third bound. Arithmetic, memory and links are assumed to work at the same time. The
longest of these three times is therefore a lower bound of the step time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxcnn.aot.collectives import Transfer, seconds
from jaxcnn.aot.targets import Target
from jaxcnn.hardware import look_up


@dataclass(frozen=True)
class Roofline:
    """Lower bounds of the step time, in seconds.

    Attributes:
      compute: time for arithmetic: FLOPs per chip, divided by the peak FLOP/s of a chip.
      memory: time for memory access: bytes that a chip accesses, divided by the memory bandwidth of a chip.
      network: predicted time for the collective operations.
      peak_flops: peak performance of a chip, in floating-point operations per second.
    """

    compute: float
    memory: float
    network: float
    peak_flops: float

    @property
    def step(self) -> float:
        """Lower bound of the step time in seconds: the largest of `compute`, `memory` and `network`."""
        return max(self.compute, self.memory, self.network)

    @property
    def bound(self) -> str:
        """Name of the largest bound: "compute", "memory" or "network"."""
        times = {"compute": self.compute, "memory": self.memory, "network": self.network}
        return max(times, key=lambda name: times[name])


def roofline(
    target: Target, dtype: str, flops: float, bytes_accessed: float, transfers: Sequence[Transfer]
) -> Roofline | None:
    """Return the bounds of the step time, or None if the performance of the target is unknown, as for a CPU.

    Args:
      target: the chips that run the step.
      dtype: compute dtype, such as "bfloat16", which decides the peak of a chip.
      flops: floating-point operations per chip in a step. A multiply-add is two operations.
      bytes_accessed: bytes that a chip reads from and writes to its memory in a step.
      transfers: the collective operations of a step.
    """
    device, peak = target.device, look_up(target.kind, dtype)
    if device is None or device.bandwidth is None or peak is None:
        return None
    network = sum(seconds(transfer, target) or 0.0 for transfer in transfers)
    return Roofline(flops / peak.flops, bytes_accessed / device.bandwidth, network, peak.flops)
