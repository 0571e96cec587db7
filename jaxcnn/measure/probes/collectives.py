"""Find the collective operations in the text of a compiled program."""

import math
import re
from dataclasses import dataclass
from typing import Any

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

# This pattern matches "%name = TYPE all-reduce(...)". For an asynchronous operation, only the "-start" instruction
# counts.
_INSTRUCTION = re.compile(rf"= (?P<type>\(.*?\)|\S+) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b(?P<dtype>pred|bf16|[a-z]+\d+\w*)\[(?P<shape>[\d,]*)\]")


@dataclass(frozen=True)
class Collective:
    """One collective operation between devices.

    Attributes:
      kind: name of the HLO operation, such as "all-reduce".
      bytes: size of the result on each device. For an all-reduce, `bytes` is also the size of the operands.
      arrays: number of arrays that the operation combines.

    >>> [found] = collectives("%sum = f32[256]{0} all-reduce(%a), replica_groups={{0,1}}")
    >>> found == Collective("all-reduce", bytes=1024, arrays=1)
    True
    """

    kind: str
    bytes: int
    arrays: int


def collectives(compiled: Any) -> list[Collective]:
    """Return the collective operations of a compiled program, in the order of its text.

    An operation in a loop appears once in the list, even if the loop runs it several times.

    Args:
      compiled: a compiled program with a method `as_text`, or the HLO text of a program.

    >>> collectives("%sum = (f32[6]{0}, /*index=1*/bf16[5,5]{1,0}) all-reduce(%a, %b), replica_groups={{0,1}}")
    [Collective(kind='all-reduce', bytes=74, arrays=2)]
    """
    text = compiled if isinstance(compiled, str) else compiled.as_text()
    found = []
    for match in _INSTRUCTION.finditer(text):
        sizes = [_bytes(array) for array in _ARRAY.finditer(match["type"])]
        # The type of a "-start" instruction is (operands, results). In older compilers, the type of all-reduce-start
        # has the results only.
        prefix = "((" if match["kind"] == "all-reduce" else "("
        if match["start"] and match["type"].startswith(prefix):
            sizes = sizes[len(sizes) // 2 :]
        found.append(Collective(match["kind"], sum(sizes), len(sizes)))
    return found


def _bytes(array: re.Match[str]) -> int:
    count = math.prod(int(n) for n in array["shape"].split(",") if n)
    bits = re.search(r"\d+", array["dtype"])
    return math.ceil(count * (8 if bits is None else int(bits[0])) / 8)
