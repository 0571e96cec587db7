"""Find the collective operations of a compiled step, and predict the time that they take on the links between chips."""

import math
import re
from dataclasses import dataclass

from jaxcnn.aot.hlo import Module, written
from jaxcnn.aot.targets import Target
from jaxcnn.hardware import Links
from jaxcnn.measure.probes.collectives import KINDS

_LISTED = re.compile(r"replica_groups=\{(\{[\d,]*\}(?:,\{[\d,]*\})*)\}")
_COUNTED = re.compile(r"replica_groups=\[([\d,]+)\]<=")
_OF_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")


@dataclass(frozen=True)
class Transfer:
    """All collective operations of a step that have the same kind and the same group size.

    Attributes:
      kind: name of the HLO operation, such as "all-reduce".
      group: number of devices that exchange data with each other.
      count: number of operations of this kind and group size in a step.
      bytes: total size of the results of all `count` operations in a step, in bytes on each device.
    """

    kind: str
    group: int
    count: float
    bytes: float


def transfers(module: Module, devices: int, steps: int = 1) -> list[Transfer]:
    """Return the collective operations of a program, one `Transfer` for each kind and group size.

    Operations within a single device are left out.

    Args:
      module: the compiled program. An operation in a loop counts once per iteration.
      devices: number of devices of the program.
      steps: number of training steps in one run of the program.
    """
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for instruction, computation, times in module.executed():
        kind, within = instruction.opcode.removesuffix("-start"), module.computations[computation]
        if kind not in KINDS:
            continue
        group = _group_size(instruction.rest, devices)
        if group == 1:
            continue
        count, total = found.get((kind, group), (0, 0))
        operands = [within[name] for name in instruction.operands if name in within]
        results = written(instruction, sum(len(operand.results) for operand in operands))
        found[kind, group] = (count + times, total + times * sum(array.logical_bytes for array in results))
    return [
        Transfer(kind, group, count / steps, total / steps) for (kind, group), (count, total) in sorted(found.items())
    ]


def _group_size(attributes: str, devices: int) -> int:
    """Return the number of devices in a group of a collective operation, or `devices` if `attributes` has no groups.

    >>> _group_size("replica_groups={{0,1},{2,3}}, to_apply=%add", 4), _group_size("replica_groups=[2,4]<=[8]", 8)
    (2, 4)
    >>> _group_size("replica_groups=mesh['batch'=8] {'batch'}", 8)
    8
    >>> _group_size("replica_groups=mesh['batch'=8] {'batch':(2)4}", 8)
    4
    """
    if (listed := _LISTED.search(attributes)) is not None:
        return max(len(group.split(",")) for group in re.findall(r"\{([\d,]*)\}", listed[1]))
    if (counted := _COUNTED.search(attributes)) is not None:
        return int(counted[1].split(",")[-1])
    if (of_mesh := _OF_MESH.search(attributes)) is not None:
        lengths = dict(re.findall(r"'([^']*)'=(\d+)", of_mesh[1]))
        axes = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", of_mesh[2])
        return math.prod(int(part or lengths.get(name, 1)) for name, part in axes)
    return devices


def _crossings(kind: str, group: int) -> float:
    """Return the number of bytes that each device in a ring sends for each byte of a collective operation's result."""
    share = (group - 1) / group
    return {
        "all-reduce": 2 * share,
        "all-gather": share,
        "reduce-scatter": group - 1,
        "all-to-all": share,
    }.get(kind, 1.0)


def seconds(transfer: Transfer, target: Target) -> float | None:
    """Return the predicted seconds of collective operations in a step, or None if the links are unknown.

    The prediction assumes that all links run at full bandwidth and that operations do not overlap:

    - On a torus, data moves along all axes at the same time. A chip has two links along an axis that is a ring, and one
      link along an axis that is a line.
    - Behind a switch, each device sends and receives at the bandwidth of its connection. Between nodes, each device
      also sends its part of the node's sum over its network adapter. These transfers overlap, so the slower one counts.

    The latency of the links is added for each operation. A group of chips within a slice counts as the whole slice.
    """
    links = target.links
    if links is None:
        return None
    crossings = _crossings(transfer.kind, transfer.group)
    if links.axes:
        return crossings * transfer.bytes / torus_bandwidth(links, target.shape) + transfer.count * _torus_latency(
            links, target.shape, passes=2 if transfer.kind == "all-reduce" else 1
        )
    within = min(transfer.group, links.node)
    taken = _crossings(transfer.kind, within) * transfer.bytes / links.bandwidth
    if transfer.group > links.node:
        nodes = math.ceil(transfer.group / links.node)
        between = _crossings(transfer.kind, nodes) * transfer.bytes / links.node / links.network
        taken = max(taken, between)
    return taken + transfer.count * links.latency


def torus_bandwidth(links: Links, shape: tuple[int, ...]) -> float:
    """Return the bytes per second that a chip can send over all its links, in a slice of more than one chip.

    >>> from jaxcnn.hardware import find_device
    >>> links = find_device("TPU v5 lite").links
    >>> torus_bandwidth(links, (2, 4)) / 1e9, torus_bandwidth(links, (16, 16)) / 1e9
    (100.0, 200.0)
    """
    return sum(links.bandwidth * (2 if _is_ring(links, length) else 1) for length in shape if length > 1)


def _is_ring(links: Links, length: int) -> bool:
    return length % links.ring == 0


def _torus_latency(links: Links, shape: tuple[int, ...], passes: int) -> float:
    hops = sum(length // 2 if _is_ring(links, length) else length - 1 for length in shape)
    return passes * hops * links.latency
