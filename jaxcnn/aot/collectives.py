"""Collective operations of a compiled step: how many, how many bytes, and how long the links need for them."""

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
    """Collective operations of one kind and size of group.

    Attributes:
      kind: name of the HLO operation, such as "all-reduce".
      group: devices that exchange data with each other.
      count: operations in a step.
      bytes: sum of the sizes of their results on each device, in a step.
    """

    kind: str
    group: int
    count: float
    bytes: float


def transfers(module: Module, devices: int, steps: int = 1) -> list[Transfer]:
    """Return the collective operations of a program by kind and group, those of one device do not count.

    Args:
      module: the program. Operations in a loop count as often as it runs.
      devices: devices of the program.
      steps: training steps that the program makes.
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
    """Return the number of devices in a group; all devices if it is not given.

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
    """Return the bytes that each device of a ring sends for each byte of the result."""
    share = (group - 1) / group
    return {
        "all-reduce": 2 * share,
        "all-gather": share,
        "reduce-scatter": group - 1,
        "all-to-all": share,
    }.get(kind, 1.0)


def seconds(transfer: Transfer, target: Target) -> float | None:
    """Return the predicted time of collective operations in a step, or None if the links are unknown.

    The links are used in full, and operations do not overlap:

    - On a torus, the axes work together. An axis that is a ring has two links, a line has one.
    - Behind a switch, each device sends and receives at the bandwidth of its connection. Between nodes each device
      sends its share of the node's sum over its network adapter at the same time; the slower of both counts.

    Each operation takes the latency of the links besides. A group that is a part of a slice counts as the whole slice.
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
    """Return the bytes per second that a chip sends over its links, in a slice of more than one chip.

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
