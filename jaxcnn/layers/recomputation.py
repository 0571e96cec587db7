"""Choose the blocks to recompute in the backward pass, so that the stored activations fit a memory budget.

The backward pass needs intermediate arrays of the forward pass. The intermediate arrays of a block are either kept, or
computed again from the input of the block, which is always kept. Source: Chen, Xu, Zhang, Guestrin: Training Deep Nets
with Sublinear Memory Cost, 2016. `choose` decides from two numbers of each block, its bytes and its multiply-adds.
`plan` computes bytes and multiply-adds from shapes, before anything is compiled.
"""

import contextvars
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Jaxpr, Var, jaxprs_in_params

from jaxcnn import kernels
from jaxcnn.errors import UsageError
from jaxcnn.layers.loops import unrolled

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Block:
    """Memory and computation of one block of a model.

    Attributes:
      name: name of the module.
      input_bytes: bytes of the block's input.
      kept_bytes: bytes of the arrays, besides the input, that the block's backward pass needs.
      macs: multiply-adds of the block's forward pass.
    """

    name: str
    input_bytes: int
    kept_bytes: int
    macs: int


@dataclass(frozen=True)
class Plan:
    """A choice of blocks to recompute.

    Attributes:
      recomputed: names of the blocks to recompute.
      peak_bytes: predicted peak of the bytes of activations; see the function `peak_bytes`.
      macs: multiply-adds that the recomputation adds.
    """

    recomputed: frozenset[str]
    peak_bytes: int
    macs: int


def peak_bytes(blocks: Sequence[Block], recomputed: Collection[str], other_bytes: int = 0) -> int:
    """Return the largest number of bytes of activations at any time of the backward pass.

    When the backward pass reaches a block, memory holds the inputs and the kept arrays of this block and of all earlier
    blocks. The kept arrays of a recomputed block occupy memory only during the backward pass of this block. Gradients
    and work space are not included.

    Args:
      blocks: all blocks, in the order of the forward pass.
      recomputed: names of the blocks to recompute.
      other_bytes: bytes of the arrays that are kept outside of blocks.

    >>> blocks = [Block("a", 1, 10, 5), Block("b", 1, 10, 5)]
    >>> [peak_bytes(blocks, names) for names in ((), ("a",), ("b",), ("a", "b"))]
    [22, 12, 22, 12]
    """
    peak = before = 0
    for block in blocks:
        peak = max(peak, before + block.input_bytes + block.kept_bytes)
        before += block.input_bytes + (0 if block.name in recomputed else block.kept_bytes)
    return other_bytes + max(peak, before)


def choose(blocks: Sequence[Block], budget: int, other_bytes: int = 0) -> Plan:
    """Return a plan whose `peak_bytes` is at most `budget` and which recomputes few multiply-adds.

    The method is greedy. First, blocks are marked for recomputation in descending order of kept bytes per multiply-add,
    until the activations fit the budget. Among blocks with equal ratios, earlier blocks are marked first. Then, a mark
    is removed if the activations still fit without the recomputation of its block; blocks with the most multiply-adds
    come first.

    Raises:
      UsageError: the activations do not fit the budget when all blocks are recomputed. The message states the smallest
        possible budget.

    >>> choose([Block("a", 1, 10, 5), Block("b", 1, 10, 50)], budget=12).recomputed
    frozenset({'a'})
    """
    least = peak_bytes(blocks, [block.name for block in blocks], other_bytes)
    if least > budget:
        raise UsageError(
            f"remat {format_size(budget)} is too small: recomputing all {len(blocks)} blocks needs "
            f"{format_size(least, up=True)} for activations. Give at least that size, or use fewer images per device."
        )
    order = sorted(blocks, key=lambda block: -block.kept_bytes / max(1, block.macs))  # stable
    chosen: set[str] = set()
    for block in order:
        if peak_bytes(blocks, chosen, other_bytes) <= budget:
            break
        chosen.add(block.name)
    for block in sorted(blocks, key=lambda block: -block.macs):
        if block.name in chosen and peak_bytes(blocks, chosen - {block.name}, other_bytes) <= budget:
            chosen.remove(block.name)
    macs = sum(block.macs for block in blocks if block.name in chosen)
    return Plan(frozenset(chosen), peak_bytes(blocks, chosen, other_bytes), macs)


def parse_size(text: str) -> int | None:
    """Return the bytes of a size such as "8GB", "512MiB" or "1.5 GiB"; None for any other text.

    >>> parse_size("1.5GB"), parse_size("2 MiB"), parse_size("8")
    (1500000000, 2097152, None)
    """
    match = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*({'|'.join(UNITS)})\s*", text)
    return None if match is None else round(float(match[1]) * UNITS[match[2]])


def format_size(size: int, *, up: bool = False) -> str:
    """Return a number of bytes as text such as "8GB", which `parse_size` can parse. If `up` is true, round up.

    >>> format_size(1_234_567, up=True), format_size(8 * 10**9)
    ('1.24MB', '8GB')
    """
    unit = next((name for name in ("GB", "MB") if size >= UNITS[name]), "KB")
    hundredths = size * 100 / UNITS[unit]
    return f"{(math.ceil(hundredths) if up else round(hundredths)) / 100:g}{unit}"


class _Recorder:
    """Collect the blocks of a model while `plan` traces the model."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._seen: list[Any] = []
        self._costs: dict[Any, tuple[int, int]] = {}

    def add(self, block: nn.Module, x: Any) -> Any:
        """Record a block that is about to be applied to `x`, and return `x` with its arrays named `MARK`."""
        fresh = 0

        def mark(leaf: Any) -> Any:
            nonlocal fresh
            if any(leaf is other for other in self._seen):
                return leaf
            fresh += _bytes(leaf)
            self._seen.append(checkpoint_name(leaf, MARK))
            return self._seen[-1]

        template, variables = block.clone(parent=None, name=None), block.variables
        shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((variables, x))]
        key = (template, jax.tree.structure((variables, x)), tuple(shapes))
        if key not in self._costs:  # most blocks of a network are equal
            self._costs[key] = _costs(template, variables, x)
        assert block.name is not None
        x = jax.tree.map(mark, x)
        self.blocks.append(Block(block.name, fresh, *self._costs[key]))
        return x


MARK = "jaxcnn.block"

_recorder: contextvars.ContextVar[_Recorder | None] = contextvars.ContextVar("recorder", default=None)


def record(block: nn.Module, x: Any) -> Any:
    """Return `x`, the input of `block`. While `plan` traces the model, also record `block` as a candidate for
    recomputation."""
    recorder = _recorder.get()
    return x if recorder is None else recorder.add(block, x)


def plan(model: nn.Module, variables: Any, x: Any, budget: int) -> Plan:
    """Return the plan of blocks to recompute in a training step of `model`.

    Args:
      model: model that calls `record` for each block, as in `blocks_of`.
      variables: variables of the model, or their shapes.
      x: images `[N, H, W, C]` of one device, or their shape.
      budget: largest number of bytes that the activations may occupy on one device.

    Raises:
      UsageError: the activations do not fit the budget when all blocks are recomputed.
    """
    blocks, other_bytes = blocks_of(model, variables, x)
    return choose(blocks, budget, other_bytes)


def blocks_of(model: nn.Module, variables: Any, x: Any) -> tuple[list[Block], int]:
    """Return the blocks of `model`, and the number of bytes that are kept outside of blocks.

    The number of bytes is an estimate of what XLA keeps: inputs of blocks, and results of convolutions, products, sums
    and poolings. XLA recomputes the results of elementwise operations, such as normalized and rectified feature maps,
    where the backward pass needs them.

    Args:
      model: module that is called as `(x, train)` and calls `record` for each block. The model must not recompute
        anything itself.
      variables: variables of the model, or their shapes.
      x: images `[N, H, W, C]` on one device, or their shape.
    """
    recorder = _Recorder()
    token = _recorder.set(recorder)
    try:
        with kernels.inlined(), unrolled():
            _, kept = _kept(_training(model, variables), variables, x)
    finally:
        _recorder.reset(token)
    total = sum(array.bytes for array in kept)
    within = sum(block.input_bytes + block.kept_bytes for block in recorder.blocks)
    return recorder.blocks, max(0, total - within)


def _costs(module: nn.Module, variables: Any, x: Any) -> tuple[int, int]:
    """Return the bytes that the backward pass of a module needs besides its input, and the module's multiply-adds."""
    token = _recorder.set(None)
    try:
        apply = _training(module, variables)
        inputs, kept = _kept(apply, variables, x)
        forward = jax.make_jaxpr(apply)(variables, x)
    finally:
        _recorder.reset(token)
    return sum(array.bytes for array in kept - inputs), _multiply_adds(forward.jaxpr)


def _training(module: nn.Module, variables: Any) -> Callable[[Any, Any], Any]:
    """Return the function `(variables, x) -> y` that a module computes in training."""
    keys = {name: jax.random.key(0) for name in ("params", "dropout")}
    state = [collection for collection in variables if collection != "params"]

    def apply(variables: Any, x: Any) -> Any:
        return module.apply(variables, x, True, rngs=keys, mutable=state)[0]

    return apply


def _kept(function: Callable[[Any, Any], Any], variables: Any, x: Any) -> "tuple[set[_Array], set[_Array]]":
    """Return the arrays of `x`, and the arrays that the backward pass of `function(variables, x)` keeps."""
    both = jax.make_jaxpr(lambda variables, x: jax.vjp(function, variables, x)[1])(variables, x)
    inputs = [_Array(_bytes(leaf)) for leaf in jax.tree.leaves(x)]
    constants = [_Array(0) for _ in both.consts]
    arguments = [*(_Array(0) for _ in jax.tree.leaves(variables)), *inputs]
    needed = _run(both.jaxpr, [*constants, *arguments])
    kept = set().union(*(array.sources() for array in needed if not array.is_mask))
    # A mask is computed again, and not kept, if its sources that are not kept are together smaller than the mask.
    return set(inputs), kept | {
        array for array in needed if array.is_mask and sum(s.bytes for s in array.sources() - kept) >= array.bytes
    }


CHEAP = frozenset(
    (
        *("abs", "add", "add_any", "and", "bitcast_convert_type", "broadcast_in_dim", "convert_element_type"),
        *("copy", "copy_p", "div", "eq", "erf", "exp", "expand_dims", "ge", "gt", "integer_pow", "le", "log"),
        *("logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pcast", "pow", "pvary", "reshape"),
        *("rsqrt", "select_n", "shift_right_logical", "sign", "sqrt", "square", "squeeze", "stop_gradient"),
        *("sub", "tanh", "transpose"),
    )
)
"""Names of the operations that XLA fuses into other operations that read their results."""


class _Array:
    """An array in a program.

    Attributes:
      bytes: size in bytes; 0 for variables.
      dtype: dtype; None for variables and inputs.
    """

    def __init__(self, size: int, dtype: Any = None, parents: "Sequence[_Array]" = ()):
        """Describe an array that cheap operations compute from `parents`. Arrays without `parents` must be kept."""
        self.bytes, self.dtype = size, dtype
        sources = frozenset().union(*(parent.sources() for parent in parents))
        # Random bits are four times as large as the mask computed from them, so that the mask is kept instead.
        is_random = self.is_mask and any(source.dtype == "uint32" for source in sources)
        self._sources = sources if parents and not is_random else None

    @property
    def is_mask(self) -> bool:
        return self.dtype == bool

    def sources(self) -> "frozenset[_Array]":
        """Return the arrays from which cheap operations compute this array."""
        return frozenset((self,)) if self._sources is None else self._sources


def _run(jaxpr: Jaxpr, arguments: Sequence[_Array]) -> list[_Array]:
    """Return the outputs of a program as `_Array` objects, which contain their sources."""
    arrays: dict[Any, _Array] = dict(zip([*jaxpr.constvars, *jaxpr.invars], arguments, strict=True))

    def get(atom: Any) -> _Array:
        return arrays[atom] if isinstance(atom, Var) else _Array(0)

    for eqn in jaxpr.eqns:
        inputs, bodies = [get(atom) for atom in eqn.invars], list(jaxprs_in_params(eqn.params))
        if len(bodies) == 1 and len(bodies[0].invars) == len(inputs) and len(bodies[0].outvars) == len(eqn.outvars):
            outputs = _run(bodies[0], [*(_Array(0) for _ in bodies[0].constvars), *inputs])
        else:
            parents = inputs if eqn.primitive.name in CHEAP else ()
            outputs = [_Array(_bytes(v.aval), v.aval.dtype, parents) for v in eqn.outvars]  # type: ignore[attr-defined]
        arrays |= zip(eqn.outvars, outputs, strict=True)
    return [get(atom) for atom in jaxpr.outvars]


def _bytes(x: Any) -> int:
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.extended)
    return 0 if is_key else math.prod(x.shape) * x.dtype.itemsize


def _multiply_adds(jaxpr: Jaxpr) -> int:
    """Return the multiply-adds of the convolutions and dot products of a program, including products with padding."""
    total = 0
    for eqn in jaxpr.eqns:
        out: Any = eqn.outvars[0].aval if eqn.outvars else None
        shapes = [atom.aval.shape for atom in eqn.invars]  # type: ignore[attr-defined]
        if eqn.primitive.name == "conv_general_dilated":
            channels = eqn.params["dimension_numbers"].rhs_spec[0]
            total += math.prod(out.shape) * math.prod(shapes[1]) // shapes[1][channels]
        elif eqn.primitive.name == "dot_general":
            ((summed, _), _) = eqn.params["dimension_numbers"]
            total += math.prod(out.shape) * math.prod(shapes[0][axis] for axis in summed)
        total += sum(map(_multiply_adds, jaxprs_in_params(eqn.params)))
    return total
