"""What a compiled program sends between devices, read off its text."""

import math
import re
from dataclasses import dataclass
from typing import Any

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

# "%name = TYPE all-reduce(...)"; asynchronous ones are counted where they start.
_INSTRUCTION = re.compile(rf"= (?P<type>\(.*?\)|\S+) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b(?P<dtype>pred|bf16|[a-z]+\d+\w*)\[(?P<shape>[\d,]*)\]")


@dataclass(frozen=True)
class Collective:
    """One communication between devices.

    Attributes:
      kind: such as "all-reduce".
      bytes: of its result on each device. An all-reduce's is as large as what each device puts in.
      arrays: number of arrays that travel together.
    """

    kind: str
    bytes: int
    arrays: int


def collectives(compiled: Any) -> list[Collective]:
    """The communications in a compiled program (or in its text), each counted once, also one within a loop.

    >>> collectives("%sum = (f32[6]{0}, /*index=1*/bf16[5,5]{1,0}) all-reduce(%a, %b), replica_groups={{0,1}}")
    [Collective(kind='all-reduce', bytes=74, arrays=2)]
    """
    text = compiled if isinstance(compiled, str) else compiled.as_text()
    found = []
    for match in _INSTRUCTION.finditer(text):
        sizes = [_bytes(array) for array in _ARRAY.finditer(match["type"])]
        if match["start"] and match["kind"] != "all-reduce" and match["type"].startswith("("):
            sizes = sizes[len(sizes) // 2 :]  # (operands, results); an all-reduce's start has its results only
        found.append(Collective(match["kind"], sum(sizes), len(sizes)))
    return found


def _bytes(array: re.Match[str]) -> int:
    count = math.prod(int(n) for n in array["shape"].split(",") if n)
    bits = re.search(r"\d+", array["dtype"])
    return math.ceil(count * (8 if bits is None else int(bits[0])) / 8)
