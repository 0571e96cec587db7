"""The convolution on a CPU as one primitive that knows its own derivatives.

`<G, W * X>` is linear in each of image X `[N, H, W, C_in]`, kernel W `[kH, kW, C_in / groups, C_out]` and cotangent G
of the output `[N, H_out, W_out, C_out]`. The convolution is its derivative by G, the two gradients are those by X and
W, and each of the three is bilinear in the other two tensors: the transposes of each are the other two. So one
primitive with three roles is closed under differentiation, forward and backward, as often as one likes; and each role
is computed, where the program is compiled, by what is fastest for its shape: oneDNN (`jaxcnn.kernels.native`) or the
form of XLA's operations below.
"""

import functools
import math
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from jaxcnn.kernels import native
from jaxcnn.kernels.axes import varying_alike

Pair = tuple[int, int]
Sides = tuple[Pair, Pair]
Shape = tuple[int, ...]
Form = Callable[[jax.Array, jax.Array], jax.Array]

LEAST_WORK = 2**20
"""Multiply-adds below which handing a convolution to oneDNN's thread costs more than it saves."""


class Role(IntEnum):
    """What is computed: the derivative of `<G, W * X>` by one of its three tensors."""

    OUTPUT = 0
    IMAGE = 1
    KERNEL = 2


class Geometry(NamedTuple):
    """A convolution but for its numbers."""

    image: Shape
    kernel: Shape
    strides: Pair
    padding: Sides
    dilation: Pair
    groups: int

    @property
    def reach(self) -> Pair:
        """Rows and columns that the dilated kernel covers."""
        vertical, horizontal = ((k - 1) * d + 1 for k, d in zip(self.kernel[:2], self.dilation, strict=True))
        return vertical, horizontal

    @property
    def output(self) -> Shape:
        """`[N, H_out, W_out, C_out]`."""
        sizes = zip(self.image[1:3], self.padding, self.reach, self.strides, strict=True)
        return (self.image[0], *((n + sum(p) - r) // s + 1 for n, p, r, s in sizes), self.kernel[3])

    def shape(self, role: Role) -> Shape:
        """Of what this role computes."""
        return {Role.OUTPUT: self.output, Role.IMAGE: self.image, Role.KERNEL: self.kernel}[role]

    def key(self, role: Role) -> tuple[int, ...]:
        """The numbers by which `convolution.cpp` knows it."""
        (top, bottom), (left, right) = self.padding
        sizes = (*self.image, *self.kernel, *self.output)
        return (int(role), *sizes, *self.strides, top, left, bottom, right, *self.dilation, self.groups)


def is_possible(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether `convolve` takes these: of one floating dtype, with shapes that are numbers, on no explicit mesh."""
    is_whole = not any(any(getattr(jax.typeof(a).sharding, "spec", ())) for a in (x, kernel))
    return (
        is_whole
        and x.dtype == kernel.dtype
        and jax.numpy.issubdtype(x.dtype, jax.numpy.floating)
        and all(isinstance(n, int) and n > 0 for n in (*x.shape, *kernel.shape))
    )


def convolve(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Sides, dilation: Pair, groups: int) -> jax.Array:
    """`W * X` by the primitive, where it `is_possible`."""
    geometry = Geometry(x.shape, kernel.shape, strides, padding, dilation, groups)
    return _bind(Role.OUTPUT, geometry, *varying_alike(x, kernel))


# The primitive.

convolution_p = Primitive("jaxcnn_convolution")


def _bind(role: Role, geometry: Geometry, a: jax.Array, b: jax.Array) -> Any:
    return convolution_p.bind(a, b, role=role, geometry=geometry)


def plain(eqn: JaxprEqn) -> ClosedJaxpr:
    """What an equation of the primitive computes, as a program of XLA's operations, for whoever reads programs.

    Traced when it is asked for: most of a network's hundreds of convolutions, each in three roles, never are.
    """
    first: Any = eqn.invars[0].aval
    return _program(eqn.params["role"], eqn.params["geometry"], first.dtype)


def _program(role: Role, geometry: Geometry, dtype: Any) -> ClosedJaxpr:
    # Of shapes alone: a transposition of operands that vary over devices would be summed over these.
    operands = {
        Role.OUTPUT: (geometry.image, geometry.kernel),
        Role.IMAGE: (geometry.output, geometry.kernel),
        Role.KERNEL: (geometry.image, geometry.output),
    }[role]
    return jax.make_jaxpr(form(role, geometry))(*(jax.ShapeDtypeStruct(shape, dtype) for shape in operands))


@functools.lru_cache(maxsize=4096)
def _compiled(role: Role, geometry: Geometry) -> Form:
    return jax.jit(functools.partial(_bind, role, geometry))


def _evaluate(a: jax.Array, b: jax.Array, *, role: Role, geometry: Geometry) -> jax.Array:
    return _compiled(role, geometry)(a, b)


def _abstract(a: Any, b: Any, *, role: Role, geometry: Geometry) -> Any:
    return a.update(shape=geometry.shape(role), weak_type=False)


def _transposed_by_first(ct: Any, a: Any, b: Any, *, role: Role, geometry: Geometry) -> Any:
    match role:
        case Role.OUTPUT:  # (X, W) -> Y, with a cotangent of Y
            return _bind(Role.IMAGE, geometry, ct, b)
        case Role.IMAGE:  # (G, W) -> X
            return _bind(Role.OUTPUT, geometry, ct, b)
        case Role.KERNEL:  # (X, G) -> W
            return _bind(Role.IMAGE, geometry, b, ct)


def _transposed_by_second(ct: Any, a: Any, b: Any, *, role: Role, geometry: Geometry) -> Any:
    match role:
        case Role.OUTPUT:
            return _bind(Role.KERNEL, geometry, a, ct)
        case Role.IMAGE:
            return _bind(Role.KERNEL, geometry, ct, a)
        case Role.KERNEL:
            return _bind(Role.OUTPUT, geometry, a, ct)


def _batched(operands: Any, dims: Any, *, role: Role, geometry: Geometry) -> tuple[jax.Array, int]:
    (a, b), (along, other) = operands, dims
    if role is Role.KERNEL or along is None or other is not None:
        # A kernel for each example: as many groups.
        program = jaxpr_as_fun(_program(role, geometry, a.dtype))
        return jax.vmap(program, in_axes=dims)(a, b)[0], 0
    a = jax.numpy.moveaxis(a, along, 0)
    times, examples = a.shape[:2]
    merged = geometry._replace(image=(times * examples, *geometry.image[1:]))
    y = _bind(role, merged, a.reshape(times * examples, *a.shape[2:]), b)
    return y.reshape(times, examples, *y.shape[1:]), 0


def _lowered(ctx: Any, a: Any, b: Any, *, role: Role, geometry: Geometry) -> Any:
    program = jaxpr_as_fun(_program(role, geometry, ctx.avals_in[0].dtype))
    return mlir.lower_fun(program, multiple_results=True)(ctx, a, b)


def _lowered_for_cpu(ctx: Any, a: Any, b: Any, *, role: Role, geometry: Geometry) -> Any:
    if _may_be_native(ctx, geometry):
        key = (*geometry.key(role), int(native.must_be_plain()))
        if native.is_fast(key):
            return native.lowering(key)(ctx, a, b)
    return _lowered(ctx, a, b, role=role, geometry=geometry)


def _may_be_native(ctx: Any, geometry: Geometry) -> bool:
    """Whether these numbers, in this place, may be handed to oneDNN."""
    work = math.prod(geometry.output) * math.prod(geometry.kernel[:3])
    sides = zip(geometry.padding, geometry.reach, strict=True)
    return (
        native.may_be_called(ctx)
        and ctx.avals_in[0].dtype == "float32"
        and work >= max(LEAST_WORK, 1)
        and all(max(pads) < reach for pads, reach in sides)
    )


convolution_p.def_impl(_evaluate)
convolution_p.def_abstract_eval(_abstract)
ad.defbilinear(convolution_p, _transposed_by_first, _transposed_by_second)
batching.primitive_batchers[convolution_p] = _batched
mlir.register_lowering(convolution_p, _lowered)
mlir.register_lowering(convolution_p, _lowered_for_cpu, platform="cpu")


# The forms of XLA's operations.


def form(role: Role, geometry: Geometry) -> Form:
    """The role of a convolution in the operations in which XLA computes it fastest on a CPU."""
    forward = functools.partial(_product if _is_product(geometry) else _windows, geometry)
    if role is Role.OUTPUT:
        return forward

    def transposed(a: jax.Array, b: jax.Array) -> jax.Array:
        shape = jax.ShapeDtypeStruct(geometry.shape(role), a.dtype)
        if role is Role.IMAGE:
            return jax.linear_transpose(lambda x: forward(x, b), shape)(a)[0]
        return jax.linear_transpose(lambda kernel: forward(a, kernel), shape)(b)[0]

    return transposed


def _is_product(geometry: Geometry) -> bool:
    return geometry.kernel[:2] == (1, 1) and not any(map(any, geometry.padding)) and geometry.groups == 1


def _windows(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's own convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=geometry.strides,
        padding=geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=geometry.groups,
    )


def _product(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 1x1 kernel as a matrix, whose gradient XLA computes 6 times as fast as that of a convolution."""
    pixels = x if geometry.strides == (1, 1) else jax.lax.slice(x, (0, 0, 0, 0), x.shape, (1, *geometry.strides, 1))
    return jax.lax.dot_general(pixels, jax.lax.squeeze(kernel, (0, 1)), (((3,), (0,)), ((), ())))
