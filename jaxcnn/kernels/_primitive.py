"""The JAX primitive that all kernels share.

A `Kernel` object describes one function, with several implementations ("forms") and its derivative:

- `form`: JAX operations that define the function, on every platform;
- `cpu_form`: JAX operations that XLA compiles to faster code on a CPU;
- `tpu_form`: JAX operations that XLA compiles to a better program on a TPU;
- `native`: a call of the native library, for operands that the library supports.

The form is chosen when a program is lowered, for the platform of this lowering. Native code is called only if every
operand is whole on one device (XLA cannot partition a custom call), and never in an exported program. Only a lowering
rule knows whether operands are whole and whether a program is exported, so that kernels need a primitive. Public JAX
functions do not suffice. `jax.lax.platform_dependent` does not see how operands are partitioned. Derivatives of every
order and mode would need `jax.custom_derivatives.linear_call`, which cannot be batched.

Most kernels are linear in groups of operands. A linear kernel names its groups of operands and implements its adjoints.
The rules below derive forward mode, reverse mode and all higher orders from the adjoints.
"""

import abc
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxcnn.kernels._selection import is_inlined, uses_native
from jaxcnn.kernels.axes import varying_alike

Form = Callable[..., Sequence[jax.Array]]


class Kernel(abc.ABC):
    """A function of arrays with several implementations. Subclasses are frozen dataclasses, compared by value.

    Methods of subclasses name their operands; the signatures of this class accept any operands.

    Attributes:
      linear: groups of operand indices. The kernel is linear in the operands of each group jointly.
      is_looped: whether a CPU computes the kernel over a mapped axis faster in a loop than by `cpu_form` under `vmap`.
        The native form over a mapped axis is always a loop.
    """

    linear: ClassVar[tuple[tuple[int, ...], ...]] = ()
    is_looped: ClassVar[bool] = False

    @abc.abstractmethod
    def outputs(self, *operands: Any, **_: Any) -> list[Any]:
        """Return the abstract values of the results for the abstract values of the operands."""

    @abc.abstractmethod
    def form(self, *operands: Any, **_: Any) -> Sequence[jax.Array]:
        """Compute the kernel in JAX operations. These operations define the kernel."""

    def cpu_form(self, *operands: Any, **_: Any) -> Sequence[jax.Array]:
        """Compute the kernel in the JAX operations that are fastest on a CPU."""
        return self.form(*operands)

    def tpu_form(self, *operands: Any, **_: Any) -> Sequence[jax.Array]:
        """Compute the kernel in the JAX operations that are best on a TPU."""
        return self.form(*operands)

    def native(self, *operands: Any, **_: Any) -> Form | None:
        """Return a function that calls the native library, or None if the library does not support the operands."""
        return None

    def adjoint(self, group: tuple[int, ...], cts: Sequence[Any], operands: Sequence[Any]) -> Sequence[jax.Array]:
        """Return the cotangents of the operands in a linear group, computed from the cotangents of the results."""
        raise TypeError(f"{type(self).__name__} is not linear in operands {group}")

    def linear_groups(self) -> tuple[tuple[int, ...], ...]:
        return self.linear

    def derivative(self, operands: Any, outputs: Any, tangents: Any) -> list[jax.Array]:
        """Return the tangents of the results.

        By default, the kernel itself maps the tangents of operands in its linear groups, and JAX differentiates `form`
        with respect to all other operands.
        """
        parts = []
        groups = self.linear_groups()
        for group in groups:
            if any(is_given(tangents[index]) for index in group):
                moved = [instantiated(tangents[i], x) if i in group else x for i, x in enumerate(operands)]
                parts.append(call(self, *moved))
        others = [i for i in range(len(operands)) if not any(i in group for group in groups)]
        if any(is_given(tangents[i]) for i in others):

            def of_others(*values: jax.Array) -> Sequence[jax.Array]:
                changed = dict(zip(others, values, strict=True))
                return self.form(*(changed.get(i, x) for i, x in enumerate(operands)))

            primals = tuple(operands[i] for i in others)
            dots = tuple(instantiated(tangents[i], operands[i]) for i in others)
            parts.append(jax.jvp(of_others, primals, dots)[1])
        return [functools.reduce(jnp.add, tangent) for tangent in zip(*parts, strict=True)]

    def batched(self, operands: Any, dims: Any) -> tuple[Sequence[jax.Array], Sequence[int]]:
        """Return the results over a mapped axis, and the position of this axis in each result."""
        moved = [x if dim is None else jnp.moveaxis(x, dim, 0) for x, dim in zip(operands, dims, strict=True)]
        size = next(x.shape[0] for x, dim in zip(moved, dims, strict=True) if dim is not None)
        outputs = call(Mapped(self, tuple(dim is not None for dim in dims), size), *moved)
        return outputs, [0] * len(outputs)

    def local_form(self, *operands: Any, with_native: bool) -> tuple[Form, bool]:
        """Return the fastest implementation for operands that are whole on one CPU, and whether it is native."""
        native = self.native(*operands) if with_native else None
        return (self.cpu_form, False) if native is None else (native, True)


@dataclass(frozen=True)
class Mapped(Kernel):
    """A kernel over a mapped axis, which is the first axis of the results and of the mapped operands.

    Attributes:
      kernel: the kernel that is applied at each index of the axis.
      mapped: for each operand, whether the operand has the mapped axis.
      size: size of the mapped axis.
    """

    kernel: Kernel
    mapped: tuple[bool, ...]
    size: int

    def linear_groups(self) -> tuple[tuple[int, ...], ...]:
        return self.kernel.linear_groups()

    def outputs(self, *operands: Any) -> list[Any]:
        return [x.update(shape=(self.size, *x.shape)) for x in self.kernel.outputs(*self._of_one(operands))]

    def form(self, *operands: jax.Array) -> Sequence[jax.Array]:
        return jax.vmap(self.kernel.form, in_axes=self._axes())(*operands)

    def cpu_form(self, *operands: jax.Array) -> Sequence[jax.Array]:
        return jax.vmap(self.kernel.cpu_form, in_axes=self._axes())(*operands)

    def tpu_form(self, *operands: jax.Array) -> Sequence[jax.Array]:
        return jax.vmap(self.kernel.tpu_form, in_axes=self._axes())(*operands)

    def local_form(self, *operands: Any, with_native: bool) -> tuple[Form, bool]:
        form, is_native = self.kernel.local_form(*self._of_one(operands), with_native=with_native)
        if not (is_native or self.kernel.is_looped):
            return self.cpu_form, False

        def loop(*operands: jax.Array) -> Sequence[jax.Array]:
            pairs = list(zip(operands, self.mapped, strict=True))

            def one(mapped: Sequence[jax.Array]) -> Sequence[jax.Array]:
                places = iter(mapped)
                return tuple(form(*(next(places) if is_mapped else x for x, is_mapped in pairs)))

            return jax.lax.map(one, [x for x, is_mapped in pairs if is_mapped])

        return loop, is_native

    def adjoint(self, group: Any, cts: Any, operands: Any) -> Sequence[jax.Array]:
        others = [i for i in range(len(operands)) if i not in group]

        def of_one(cts: Sequence[jax.Array], values: Sequence[jax.Array]) -> Sequence[jax.Array]:
            given = dict(zip(others, values, strict=True))
            return list(self.kernel.adjoint(group, cts, [given.get(i) for i in range(len(operands))]))

        axes = self._axes()
        found = jax.vmap(of_one, in_axes=(0, [axes[i] for i in others]))(cts, [operands[i] for i in others])
        return [ct if self.mapped[i] else ct.sum(0) for i, ct in zip(group, found, strict=True)]

    def derivative(self, operands: Any, outputs: Any, tangents: Any) -> list[jax.Array]:
        given = [i for i, dot in enumerate(tangents) if is_given(dot)]

        def of_one(operands: Any, outputs: Any, dots: Sequence[jax.Array]) -> list[jax.Array]:
            all_dots: list[Any] = [ad.Zero(jax.typeof(x).to_tangent_aval()) for x in operands]
            for i, dot in zip(given, dots, strict=True):
                all_dots[i] = dot
            return self.kernel.derivative(operands, outputs, all_dots)

        axes = self._axes()
        in_axes = (list(axes), 0, [axes[i] for i in given])
        return jax.vmap(of_one, in_axes=in_axes)(list(operands), list(outputs), [tangents[i] for i in given])

    def _axes(self) -> tuple[int | None, ...]:
        return tuple(0 if is_mapped else None for is_mapped in self.mapped)

    def _of_one(self, operands: Sequence[Any]) -> list[Any]:
        """Return the abstract values of the operands at one index of the mapped axis."""
        pairs = zip(operands, self.mapped, strict=True)
        return [x.update(shape=x.shape[1:]) if is_mapped else x for x, is_mapped in pairs]


def call(kernel: Kernel, *operands: jax.Array) -> Sequence[jax.Array]:
    """Return the results of a kernel. The implementation is chosen when the program is lowered."""
    if is_inlined() or not all(map(_is_supported, operands)):
        return kernel.form(*operands)
    return kernel_p.bind(*varying_alike(*operands), kernel=kernel)


def merged(operands: Sequence[jax.Array], dims: Sequence[int | None]) -> tuple[list[jax.Array], int]:
    """Merge a mapped axis into the first axis of all operands, for `Kernel.batched`.

    At least one operand must have the mapped axis; an operand without this axis is repeated. Return the operands, and
    the size of the mapped axis.
    """
    places = next(x.shape[dim] for x, dim in zip(operands, dims, strict=True) if dim is not None)
    results = []
    for x, dim in zip(operands, dims, strict=True):
        whole = jnp.broadcast_to(x, (places, *x.shape)) if dim is None else jnp.moveaxis(x, dim, 0)
        results.append(jax.lax.collapse(whole, 0, 2))
    return results, places


def _is_supported(x: jax.Array) -> bool:
    """Return whether the shape of `x` has no symbolic sizes, and `x` is not sharded over an explicit mesh."""
    return all(isinstance(n, int) for n in x.shape) and not any(getattr(jax.typeof(x).sharding, "spec", ()))


def is_given(tangent: Any) -> bool:
    """Return whether a tangent or cotangent is an array, and not JAX's symbolic zero."""
    return not isinstance(tangent, ad.Zero)


def instantiated(tangent: Any, like: Any) -> jax.Array:
    return tangent if is_given(tangent) else jnp.zeros_like(like)


kernel_p = Primitive("jaxcnn_kernel")
kernel_p.multiple_results = True


@functools.partial(jax.jit, static_argnames="kernel")
def _compiled(*operands: jax.Array, kernel: Kernel) -> Any:
    return kernel_p.bind(*operands, kernel=kernel)


@kernel_p.def_impl
def _evaluate(*operands: jax.Array, kernel: Kernel) -> Any:
    # Without jit, nothing is lowered, so that no rule could choose a form.
    disabled = jax.config.values["jax_disable_jit"]
    return list(kernel.form(*operands)) if disabled else _compiled(*operands, kernel=kernel)


@kernel_p.def_abstract_eval
def _abstract(*operands: Any, kernel: Kernel) -> list[Any]:
    return kernel.outputs(*operands)


def _jvp(primals: Any, tangents: Any, *, kernel: Kernel) -> tuple[Any, list[jax.Array]]:
    outputs = kernel_p.bind(*primals, kernel=kernel)
    return outputs, kernel.derivative(primals, outputs, tangents)


def _transpose(cts: Any, *operands: Any, kernel: Kernel) -> list[Any]:
    wanted = [ad.is_undefined_primal(x) for x in operands]
    group = next(group for group in kernel.linear_groups() if any(wanted[index] for index in group))
    whole = [ct if is_given(ct) else jnp.zeros(ct.aval.shape, ct.aval.dtype) for ct in cts]
    found = dict(zip(group, kernel.adjoint(group, whole, operands), strict=True))
    return [found[i].astype(x.aval.dtype) if wanted[i] else None for i, x in enumerate(operands)]


def _batched(operands: Any, dims: Any, *, kernel: Kernel) -> Any:
    return kernel.batched(operands, dims)


def _lowered(ctx: Any, *operands: Any, kernel: Kernel) -> Any:
    return mlir.lower_fun(kernel.form, multiple_results=True)(ctx, *operands)


def _lowered_for_tpu(ctx: Any, *operands: Any, kernel: Kernel) -> Any:
    return mlir.lower_fun(kernel.tpu_form, multiple_results=True)(ctx, *operands)


def _lowered_for_cpu(ctx: Any, *operands: Any, kernel: Kernel) -> Any:
    form: Form | None = None
    if ctx.module_context.lowering_parameters.for_export:
        form = kernel.form
    elif _is_whole(ctx):
        form, _ = kernel.local_form(*ctx.avals_in, with_native=uses_native())
    return mlir.lower_fun(form or kernel.cpu_form, multiple_results=True)(ctx, *operands)


def _is_whole(ctx: Any) -> bool:
    """Return whether arrays in this part of the program are whole on one device, and not partitioned by XLA."""
    axes = ctx.module_context.axis_context
    is_manual = not hasattr(axes, "manual_axes") or set(axes.manual_axes) == set(axes.mesh.axis_names)
    return is_manual and getattr(axes, "num_devices", 1) == 1


ad.primitive_jvps[kernel_p] = _jvp
ad.primitive_transposes[kernel_p] = _transpose
batching.primitive_batchers[kernel_p] = _batched
mlir.register_lowering(kernel_p, _lowered)
mlir.register_lowering(kernel_p, _lowered_for_tpu, platform="tpu")
mlir.register_lowering(kernel_p, _lowered_for_cpu, platform="cpu")
