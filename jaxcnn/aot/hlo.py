"""Read the HLO text of a compiled program: the instructions, how often each one runs, and how many bytes it moves.

XLA's own cost analysis counts the body of a loop only once, and is not available for GPUs that this machine lacks. This
module has neither limit, because it reads the counts from the text of the program.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_ARRAY = re.compile(r"\b(?P<dtype>pred|[a-z]+\d+\w*)\[(?P<shape>[\d,]*)\](?:\{(?P<layout>[^{}]*)\})?")
_TILE = re.compile(r"T(\((?:[\d,]+)\)(?:\([\d,]+\))*)")
_SPACE = re.compile(r"S\((\d+)\)")
_HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[^\s(]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?P<root>ROOT )?%?(?P<name>\S+) = ")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(calls|body|condition|to_apply|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')

# Instructions that move no data themselves. The instructions in loops, calls and branches are counted separately.
_FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional"),
        *("after-all", "partition-id", "replica-id", "opt-barrier", "domain", "add-dependency", "get-dimension-size"),
    )
)
# Custom calls that reserve memory without writing to it.
_ALLOCATIONS = ("AllocateBuffer", "CreateBuffer", "GatherScatterIndicesBitpacked")
TPU_MEMORY = frozenset((0,))
"""The memory space that is the main memory (HBM) of a TPU. Other memory spaces, such as vector memory, are on chip."""

_SLICES = ("slice", "dynamic-slice", "gather")


@dataclass(frozen=True)
class Array:
    """An array of a compiled program.

    Attributes:
      dtype: element type, such as "bf16".
      shape: shape of the array, without padding.
      order: axes from the fastest to the slowest varying; empty for scalars and unknown layouts.
      tiles: shapes of the tiles to which the fastest axes are padded, outermost tile first; see XLA's "Tiled layout".
      space: number of the memory space that contains the array; 0 is the chip's main memory.
    """

    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...] = ()
    tiles: tuple[tuple[int, ...], ...] = ()
    space: int = 0

    @property
    def bits(self) -> int:
        digits = re.search(r"\d+", self.dtype)
        return 8 if digits is None else int(digits[0])

    @property
    def logical_bytes(self) -> int:
        """Size of the array in bytes, without padding."""
        return math.ceil(math.prod(self.shape) * self.bits / 8)

    @property
    def padded_bytes(self) -> int:
        """Size of the array in memory in bytes, including the padding to tiles.

        >>> parse_array("bf16[128,56,56,64]{0,3,2,1:T(8,128)(2,1)}").padded_bytes // 2**20
        49
        >>> parse_array("f32[3,3,3,64]{3,2,1,0:T(8,128)}").padded_bytes // parse_array("f32[3,3,3,64]").padded_bytes
        5
        """
        sizes = [self.shape[axis] for axis in reversed(self.order)] if self.order else list(self.shape)
        for tile in self.tiles:
            sizes = [1] * (len(tile) - len(sizes)) + sizes
            outer, inner = sizes[: len(sizes) - len(tile)], sizes[len(sizes) - len(tile) :]
            sizes = [*outer, *(math.ceil(n / t) for n, t in zip(inner, tile, strict=True)), *tile]
        return math.ceil(math.prod(sizes) * self.bits / 8)


def parse_array(text: str) -> Array:
    """Return the array that an HLO type such as `bf16[8,128]{1,0:T(8,128)(2,1)}` describes."""
    match = _ARRAY.search(text)
    assert match is not None
    return _array(match)


def _array(match: re.Match[str]) -> Array:
    layout = match["layout"] or ""
    order, _, rest = layout.partition(":")
    tiles, space = _TILE.search(rest), _SPACE.search(rest)
    return Array(
        dtype=match["dtype"],
        shape=_numbers(match["shape"]),
        order=_numbers(order),
        tiles=tuple(_numbers(tile) for tile in re.findall(r"\(([\d,]+)\)", tiles[1])) if tiles else (),
        space=int(space[1]) if space else 0,
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


@dataclass(frozen=True)
class Instruction:
    """An instruction of a compiled program.

    Attributes:
      name: name of the instruction.
      opcode: operation of the instruction, such as "fusion".
      results: the arrays that the instruction returns, or the arrays of the tuple that the instruction returns.
      operands: names of the instructions whose results are the operands.
      rest: attributes of the instruction, as text.
      is_root: whether the result of the instruction is the result of the computation that contains it.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    def called(self, *kinds: str) -> list[str]:
        """Return the names of the computations that the instruction calls through attributes such as "body"."""
        found = []
        for kind, names in _CALLED.findall(self.rest):
            if kind in kinds:
                found += [name.strip(" %{}") for name in names.split(",")]
        return found


@dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: maps the name of each computation to its instructions, a dict from name to `Instruction` in order.
      entry: name of the computation with which the program starts.
      spaces: numbers of the memory spaces that belong to the chip's main memory; None if all of them do.
    """

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str
    spaces: frozenset[int] | None = None

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """Number of runs of each computation, by its name. Computations within fusions and reductions are left out."""
        counts: dict[str, int] = {}

        def visit(name: str, times: int) -> None:
            counts[name] = counts.get(name, 0) + times
            for instruction in self.computations.get(name, {}).values():
                if instruction.opcode == "while":
                    for inner in instruction.called("body", "condition"):
                        visit(inner, times * self.trips(instruction))
                elif instruction.opcode in ("call", "async-start"):
                    for inner in instruction.called("calls", "to_apply"):
                        visit(inner, times)
                elif instruction.opcode == "conditional":
                    for inner in instruction.called("branch_computations"):
                        visit(inner, times)

        visit(self.entry, 1)
        return counts

    def trips(self, loop: Instruction) -> int:
        """Return the number of iterations of a loop, or 1 if the text of the program does not state the number.

        GPU programs state the number of iterations. In TPU programs, the loop condition compares a counter, which
        starts at 0, with the number of iterations.
        """
        if (known := _TRIPS.search(loop.rest)) is not None:
            return int(known[1])
        condition = self.computations.get(loop.called("condition")[0], {})
        root = next((instruction for instruction in condition.values() if instruction.is_root), None)
        if root is None or root.opcode != "compare" or "direction=LT" not in root.rest:
            return 1
        limit = condition.get(root.operands[-1])
        is_number = limit is not None and limit.opcode == "constant" and limit.rest.isdigit()
        return int(limit.rest) if limit is not None and is_number else 1

    def executed(self) -> Iterator[tuple[Instruction, str, int]]:
        """Yield each instruction that runs, the name of its computation, and how often it runs."""
        for name, times in self.runs.items():
            for instruction in self.computations.get(name, {}).values():
                yield instruction, name, times

    @property
    def has_loops(self) -> bool:
        """Return whether the program has a loop with more than one iteration."""
        return any(times > 1 for times in self.runs.values())

    def bytes_accessed(self) -> int:
        """Return the bytes that the program reads from and writes to the chip's memory, with padding.

        The count assumes that each instruction outside of fusions reads its operands once and writes its results once.
        An instruction that slices an operand reads only the slices. Only arrays in the memory spaces `spaces` count.
        """
        return sum(times * self._moved(instruction, name) for instruction, name, times in self.executed())

    def padding(self) -> float:
        """Return the fraction of the written bytes that is padding to tiles, from 0 to 1."""
        logical = padded = 0
        for instruction, _, times in self.executed():
            if self._is_free(instruction):
                continue
            for array in instruction.results:
                if self._is_in_memory(array):
                    logical += times * array.logical_bytes
                    padded += times * array.padded_bytes
        return 1 - logical / padded if padded else 0.0

    def _is_free(self, instruction: Instruction) -> bool:
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done") or opcode == "async-start":
            return True
        return opcode == "custom-call" and any(f'"{name}"' in instruction.rest for name in _ALLOCATIONS)

    def _size(self, arrays: tuple[Array, ...]) -> int:
        return sum(array.padded_bytes for array in arrays if self._is_in_memory(array))

    def _is_in_memory(self, array: Array) -> bool:
        return self.spaces is None or array.space in self.spaces

    def _moved(self, instruction: Instruction, computation: str) -> int:
        if self._is_free(instruction):
            return 0
        within = self.computations[computation]
        operands = [within[name] for name in instruction.operands if name in within]
        if instruction.opcode in ("fusion", "fusion-start"):
            return self._moved_by_fusion(instruction, operands)
        results = self._size(written(instruction, sum(len(operand.results) for operand in operands)))
        if instruction.opcode in _SLICES:
            return 2 * results
        if instruction.opcode == "dynamic-update-slice":
            return 2 * self._size(operands[1].results)
        return results + sum(self._size(operand.results) for operand in operands)

    def _moved_by_fusion(self, fusion: Instruction, operands: list[Instruction]) -> int:
        body = self.computations.get(fusion.called("calls")[0], {})
        parameters = _parameters(body)
        moved = 0
        for index, operand in enumerate(operands):
            whole = self._size(operand.results)
            parameter = parameters.get(index)
            moved += whole if parameter is None else min(whole, self._read_of(parameter, body, whole))
        root = next((instruction for instruction in body.values() if instruction.is_root), None)
        if root is None:
            return moved + self._size(fusion.results)
        outputs = [body[name] for name in root.operands if name in body] if root.opcode == "tuple" else [root]
        return moved + sum(self._written_of(output, body) for output in outputs)

    def _written_of(self, output: Instruction, body: Mapping[str, Instruction]) -> int:
        """Return the bytes that a fusion writes for one of its results.

        If the result is an in-place update of an operand, only the updated part counts.
        """
        source = output
        while source.opcode == "bitcast" and source.operands[0] in body:
            source = body[source.operands[0]]
        if source.opcode != "dynamic-update-slice":
            return self._size(output.results)
        update = body[source.operands[1]].results
        return self._size(update) or sum(array.logical_bytes for array in update)

    def _read_of(self, parameter: Instruction, body: Mapping[str, Instruction], whole: int) -> int:
        """Return the bytes that a fusion reads of one operand, given the operand's whole size in bytes."""
        if parameter.is_root:
            return whole
        read = 0
        for user in body.values():
            if parameter.name not in user.operands:
                continue
            if user.opcode in _SLICES and user.operands[0] == parameter.name:
                read += self._size(user.results) or sum(array.logical_bytes for array in user.results)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name:
                continue  # the operand is updated in place and not read
            elif user.opcode == "bitcast":
                read += self._read_of(user, body, whole)
            elif user.opcode == "fusion":  # a fusion within a fusion
                inner = self.computations.get(user.called("calls")[0], {})
                parameters = _parameters(inner)
                for index, name in enumerate(user.operands):
                    if name == parameter.name:
                        read += self._read_of(parameters[index], inner, whole) if index in parameters else whole
            else:
                return whole
        return read


def _parameters(body: Mapping[str, Instruction]) -> dict[int, Instruction]:
    """Return the parameters of a computation, by the number of the parameter."""
    return {
        int(match[0]): instruction
        for instruction in body.values()
        if instruction.opcode == "parameter" and (match := re.match(r"\d+", instruction.rest))
    }


def written(instruction: Instruction, operands: int) -> tuple[Array, ...]:
    """Return the arrays that an instruction writes.

    The result of an asynchronous "-start" instruction lists the operands first, then the arrays that it writes. In
    older compilers, the result of all-reduce-start does not list the operands.

    Args:
      instruction: an instruction of a compiled program.
      operands: number of arrays in the operands of the instruction.
    """
    results = instruction.results
    if instruction.opcode == "copy-start":
        return results[:1]
    return results[operands:] if instruction.opcode.endswith("-start") and len(results) > operands else results


def parse(text: str, *, spaces: frozenset[int] | None = None) -> Module:
    """Parse the HLO text of a compiled program.

    Args:
      text: the text of the program, from `compiled.as_text()`.
      spaces: memory spaces that are the chip's main memory: `TPU_MEMORY` for a TPU. Default: all memory spaces.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is not None and line.startswith("}"):
            current = None
        elif current is not None:
            if (instruction := _parse_instruction(line)) is not None:
                current[instruction.name] = instruction
        elif (header := _HEADER.match(line)) is not None:
            current = computations.setdefault(header["name"], {})
            entry = header["name"] if header["entry"] else entry
    return Module(computations, entry, spaces)


def _parse_instruction(line: str) -> Instruction | None:
    start = _INSTRUCTION.match(line)
    if start is None:
        return None
    rest = line[start.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    close = _closing("(" + rest, 0) - 1
    inside, attributes = rest[:close], rest[close + 1 :]
    is_leaf = opcode in ("parameter", "constant")
    return Instruction(
        name=start["name"],
        opcode=opcode,
        results=tuple(map(_array, _ARRAY.finditer(kind))),
        operands=() if is_leaf else tuple(_NAME.findall(inside)),
        rest=inside if is_leaf else attributes,
        is_root=start["root"] is not None,
    )


def _closing(text: str, start: int) -> int:
    """Return the position of the closing parenthesis that matches the opening parenthesis at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)
