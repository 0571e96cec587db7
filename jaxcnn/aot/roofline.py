"""The least time that a step can take on a target: by arithmetic, by memory, and by the links between chips.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 2009. The links are a third
roof here. The three are assumed to overlap completely, so the longest is a lower bound of the step time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxcnn.aot.collectives import Transfer, seconds
from jaxcnn.aot.targets import Target
from jaxcnn.hardware import look_up


@dataclass(frozen=True)
class Roofline:
    """Lower bounds of the time of a step, in seconds.

    Attributes:
      compute: FLOPs of a chip, divided by its peak.
      memory: bytes that a chip accesses, divided by its bandwidth.
      network: predicted time of the collective operations.
      peak_flops: peak of a chip, in operations per second.
    """

    compute: float
    memory: float
    network: float
    peak_flops: float

    @property
    def step(self) -> float:
        """Seconds of a step: the longest of the three."""
        return max(self.compute, self.memory, self.network)

    @property
    def bound(self) -> str:
        """The largest bound: "compute", "memory" or "network"."""
        times = {"compute": self.compute, "memory": self.memory, "network": self.network}
        return max(times, key=lambda name: times[name])


def roofline(
    target: Target, dtype: str, flops: float, bytes_accessed: float, transfers: Sequence[Transfer]
) -> Roofline | None:
    """Return the bounds of a step, or None if the target's performance is unknown, as for a CPU.

    Args:
      target: what runs the step.
      dtype: compute dtype, which decides the peak.
      flops: floating-point operations of a chip in a step; a multiply-add is two.
      bytes_accessed: bytes that a chip reads from and writes to its memory in a step.
      transfers: the step's collective operations.
    """
    device, peak = target.device, look_up(target.kind, dtype)
    if device is None or device.bandwidth is None or peak is None:
        return None
    network = sum(seconds(transfer, target) or 0.0 for transfer in transfers)
    return Roofline(flops / peak.flops, bytes_accessed / device.bandwidth, network, peak.flops)
