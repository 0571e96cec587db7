"""Compute the receptive fields of the arrays of a jaxpr, from one primitive to the next.

A rule for each primitive computes the field of the output from the fields of the operands. The receptive field of a
unit is the set of pixels that can influence the unit. The *effective* receptive field (Luo et al.), which also weights
each pixel by its influence, is not computed. The output of a primitive without a rule counts as seeing the whole image.
A receptive field may therefore be too large, and is never too small.

References:
  - Araujo, Norris and Sim, *Computing Receptive Fields of Convolutional Neural Networks*, Distill, 2019: the
    recurrence of sizes and strides.
  - Dumoulin and Visin, *A guide to convolution arithmetic for deep learning*, 2016: windows, dilation and transposed
    convolution.
  - Luo, Li, Urtasun and Zemel, *Understanding the Effective Receptive Field*, 2016.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from jax.extend.core import JaxprEqn, Literal, Var


@dataclass(frozen=True)
class Interval:
    """The pixels along one axis of the image that the units along array axis `axis` see.

    Unit `i` sees the pixels from `low + i * step` to `high + i * step`. The interval is nominal: it ignores the border
    of the image, as is common in the literature. An interval can therefore be larger than the image: 427 pixels on an
    image of 224 pixels, for example. After upsampling, the bounds are fractions. After upsampling by 2, for example,
    unit i sees pixel floor(i / 2), the only integer in `[(i - 1) / 2, i / 2]`.
    """

    axis: int
    step: Fraction = Fraction(1)
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)

    @property
    def size(self) -> int:
        """The number of pixels in the interval."""
        return math.floor(self.high - self.low) + 1

    def windowed(self, first: int, last: int, stride: int = 1, dilation: int = 1) -> "Interval":
        """Return the interval after a sliding window whose taps have the offsets `first` to `last`.

        Output unit j sees the input units `(stride * j + tap) / dilation`. The zeros between the units of a dilated
        input are ignored, because they do not depend on the image.

        >>> conv7x7 = Interval(axis=1).windowed(-3, 3, stride=2)
        >>> conv7x7.size, int(conv7x7.step)
        (7, 2)
        """
        jump = self.step / dilation
        return replace(self, step=jump * stride, low=self.low + jump * first, high=self.high + jump * last)

    def joined(self, other: "Interval | None") -> "Interval | None":
        """Return the union of two intervals, or None (the whole axis) if their axes or steps differ."""
        if other is None or (self.axis, self.step) != (other.axis, other.step):
            return None
        return replace(self, low=min(self.low, other.low), high=max(self.high, other.high))


Field = tuple[Interval | None, ...]
"""The receptive field of an array: one entry for each spatial axis of the image. An entry is an interval, or None if
every unit may see the whole axis. Instead of a `Field`, None means that the array does not depend on the image."""

WHOLE: Field = (None, None)


def shape(atom: Var | Literal) -> tuple[int, ...]:
    """Return the shape of an array in a jaxpr; `()` for a value that is not an array, such as a token."""
    return tuple(getattr(atom.aval, "shape", ()))


def join(fields: Iterable[Field | None]) -> Field | None:
    """Return the receptive field of the output of an elementwise function, given the fields of its operands."""
    some = [field for field in fields if field is not None]
    if not some:
        return None
    joined = some[0]
    for field in some[1:]:
        joined = tuple(a and a.joined(b) for a, b in zip(joined, field, strict=True))
    return joined


def blur(fields: Iterable[Field | None]) -> Field | None:
    """Return the receptive field of the output of an unknown function, given the fields of its operands."""
    return WHOLE if any(field is not None for field in fields) else None


def transfer(eqn: JaxprEqn, inputs: Sequence[Field | None]) -> list[Field | None]:
    """Return the receptive fields of the outputs of an equation, given the receptive fields `inputs` of its operands.

    The equation must not call a function, as `jit` and `scan` do.
    """
    name, outputs = eqn.primitive.name, len(eqn.outvars)
    # A mutable array or an effect can carry values from earlier writes.
    if eqn.effects or any(hasattr(atom.aval, "inner_aval") for atom in eqn.invars):
        return [WHOLE] * outputs
    if all(field is None for field in inputs):
        return [None] * outputs
    if name in ELEMENTWISE:
        return [join(inputs)] * outputs
    if name in MANY_TO_MANY:
        return MANY_TO_MANY[name](eqn, inputs)
    # A rule applies to the first operand. All other operands (kernel, start indices, initial values) can affect every
    # unit.
    if name in RULES and inputs[0] is not None and blur(inputs[1:]) is None:
        return [tuple(i and RULES[name](eqn, i, inputs[0]) for i in inputs[0])] * outputs
    return [WHOLE] * outputs


def is_known(eqn: JaxprEqn) -> bool:
    """Return whether the equation's primitive has a rule."""
    return eqn.primitive.name in ELEMENTWISE | RULES.keys() | MANY_TO_MANY.keys()


ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy copy_p cos cosh
    div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max min mul
    name ne neg nextafter not or pow reduce_precision rem round rsqrt select_n sign sin sinh sqrt square sub tan tanh
    xor
    """.split()  # noqa: SIM905
)
"""Elementwise primitives: a unit of the output sees the pixels that the operands' units at its position see."""


# A rule maps (equation, interval of the operand, field of the operand) to the interval of the output, or to None if the
# output sees the whole axis.


def _broadcast(eqn: JaxprEqn, i: Interval, _: Field) -> Interval | None:
    new = int(eqn.params["broadcast_dimensions"][i.axis])
    return replace(i, axis=new) if shape(eqn.invars[0])[i.axis] == eqn.params["shape"][new] else None


def _transpose(eqn: JaxprEqn, i: Interval, _: Field) -> Interval:
    return replace(i, axis=list(eqn.params["permutation"]).index(i.axis))


def _reduce(eqn: JaxprEqn, i: Interval, _: Field) -> Interval | None:
    axes = eqn.params["dimensions" if eqn.primitive.name in ("squeeze", "reduce") else "axes"]
    return None if i.axis in axes else replace(i, axis=i.axis - sum(axis < i.axis for axis in axes))


def _slice(eqn: JaxprEqn, i: Interval, _: Field) -> Interval:
    start, strides = int(eqn.params["start_indices"][i.axis]), eqn.params["strides"]
    return i.windowed(start, start, 1 if strides is None else int(strides[i.axis]))


def _pad(eqn: JaxprEqn, i: Interval, _: Field) -> Interval:
    before, _after, between = map(int, eqn.params["padding_config"][i.axis])
    return i.windowed(-before, -before, dilation=between + 1)


def _gather(eqn: JaxprEqn, i: Interval, _: Field) -> Interval | None:
    numbers = eqn.params["dimension_numbers"]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    if i.axis in gone or eqn.params["slice_sizes"][i.axis] != shape(eqn.invars[0])[i.axis]:
        return None  # the indices are known only at run time
    return replace(i, axis=numbers.offset_dims[i.axis - sum(axis < i.axis for axis in gone)])


def _window(i: Interval, size: int, dilation: int, before: int, stride: int, base_dilation: int) -> Interval:
    """Return interval `i` after a window of `size` taps, `dilation` apart.

    The axis has `before` units of padding before its first unit.
    """
    return i.windowed(-before, (size - 1) * dilation - before, stride, base_dilation)


def _reduce_window(eqn: JaxprEqn, i: Interval, _: Field) -> Interval:
    p, before = eqn.params, eqn.params["padding"][i.axis][0]
    size, dilation, stride, base_dilation = (
        p[key][i.axis] for key in ("window_dimensions", "window_dilation", "window_strides", "base_dilation")
    )
    return _window(i, size, dilation, before, stride, base_dilation)


def _convolve(eqn: JaxprEqn, i: Interval, _: Field) -> Interval | None:
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    place = numbers.lhs_spec.index(i.axis)  # 0: batch, 1: features, from 2: the spatial axes
    if place == 1 or (place == 0 and p["batch_group_count"] > 1):
        return None
    i = replace(i, axis=numbers.out_spec[place])
    if place == 0:
        return i
    taps, k = shape(eqn.invars[1])[numbers.rhs_spec[place]], place - 2
    return _window(i, taps, p["rhs_dilation"][k], p["padding"][k][0], p["window_strides"][k], p["lhs_dilation"][k])


def _reshape(eqn: JaxprEqn, i: Interval, field: Field) -> Interval | None:
    old, new = shape(eqn.invars[0]), tuple(eqn.params["new_sizes"])
    if 0 in old or eqn.params.get("dimensions") is not None:
        return None
    for before, after in reshaped_groups(old, new):
        if i.axis not in before:
            continue
        if len(before) == 1:  # split, [n] -> [n / f, f]: the outer axis has stride f
            inner = math.prod(new[a] for a in after[1:])
            return replace(i.windowed(0, inner - 1, stride=inner), axis=after[0])
        others = [j for j in field if j is not None and j is not i and j.axis in before]
        if len(after) == 1 and i.axis == before[0] and not others:
            # Merged, [n, f] -> [n * f], as in upsampling: f adjacent units see the same pixels. If both spatial axes
            # are merged into one, as in flattening, positions are lost and the result is the whole axis.
            f = math.prod(old[a] for a in before[1:])
            return replace(i.windowed(1 - f, 0, dilation=f), axis=after[0])
    return None


def reshaped_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the smallest groups of old and new axes that a reshape maps to each other, without axes of size 1.

    >>> reshaped_groups((2, 12, 5), (2, 1, 3, 4, 5))
    [([0], [0]), ([1], [2, 3]), ([2], [4])]
    """
    rest = [a for a in range(len(old)) if old[a] != 1], [a for a in range(len(new)) if new[a] != 1]
    groups = []
    while rest[0]:
        before, after = [rest[0].pop(0)], [rest[1].pop(0)]
        while (a := math.prod(old[i] for i in before)) != (b := math.prod(new[i] for i in after)):
            if a < b:
                before.append(rest[0].pop(0))
            else:
                after.append(rest[1].pop(0))
        groups.append((before, after))
    return groups


RULES: dict[str, Callable[[JaxprEqn, Interval, Field], Interval | None]] = {
    **dict.fromkeys(["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce", "argmax", "argmin"], _reduce),
    **dict.fromkeys(["reduce_and", "reduce_or", "squeeze"], _reduce),
    **dict.fromkeys(["reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min"], _reduce_window),
    "broadcast_in_dim": _broadcast,
    "conv_general_dilated": _convolve,
    "gather": _gather,
    "pad": _pad,
    "reshape": _reshape,
    "rev": lambda eqn, i, _: None if i.axis in eqn.params["dimensions"] else i,
    "slice": _slice,
    "tile": lambda eqn, i, _: i if eqn.params["reps"][i.axis] == 1 else None,
    "transpose": _transpose,
}


# Rules of primitives with several operands or several outputs.


def _shifted(field: Field | None, axis: int, by: int) -> Field | None:
    return field and tuple(i.windowed(by, by) if i and i.axis == axis else i for i in field)


def _concatenate(eqn: JaxprEqn, inputs: Sequence[Field | None]) -> list[Field | None]:
    axis, start, moved = eqn.params["dimension"], 0, []
    for field, atom in zip(inputs, eqn.invars, strict=True):
        moved.append(_shifted(field, axis, -start))
        start += shape(atom)[axis]
    return [join(moved)]


def _stack(eqn: JaxprEqn, inputs: Sequence[Field | None]) -> list[Field | None]:
    new = eqn.params["axis"]
    return [join(f and tuple(i and replace(i, axis=i.axis + (i.axis >= new)) for i in f) for f in inputs)]


def _split(eqn: JaxprEqn, inputs: Sequence[Field | None]) -> list[Field | None]:
    axis, start, outputs = eqn.params["axis"], 0, []
    for size in map(int, eqn.params["sizes"]):
        outputs.append(_shifted(inputs[0], axis, start))
        start += size
    return outputs


def _dot(eqn: JaxprEqn, inputs: Sequence[Field | None]) -> list[Field | None]:
    contracted, batch = eqn.params["dimension_numbers"]
    moved, placed = [], len(batch[0])
    for field, atom, summed, batched in zip(inputs, eqn.invars, contracted, batch, strict=True):
        # Axes of the output: batch axes, free axes of the left operand, free axes of the right operand.
        free = [a for a in range(len(shape(atom))) if a not in (*summed, *batched)]
        place = {a: n for n, a in enumerate(batched)} | {a: placed + n for n, a in enumerate(free)}
        placed += len(free)
        if field is not None:
            moved.append(tuple(replace(i, axis=place[i.axis]) if i and i.axis in place else None for i in field))
    return [join(moved)]


MANY_TO_MANY: dict[str, Callable[[JaxprEqn, Sequence[Field | None]], list[Field | None]]] = {
    **dict.fromkeys(["device_put", "optimization_barrier"], lambda _, inputs: list(inputs)),
    "concatenate": _concatenate,
    "dot_general": _dot,
    "split": _split,
    "stack": _stack,
}
