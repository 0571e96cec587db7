"""Arrays that a GPU computes together, so that what they are computed from is freed early."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from jaxcnn.kernels._primitive import Kernel, call


@dataclass(frozen=True)
class Together(Kernel):
    """Two arrays unchanged. Programs for GPUs compute both before anything else that needs one of them.

    XLA for GPUs computes the gradient of a kernel when the optimizer needs it, and keeps the two operands of this
    gradient until then: activations and their gradients of many layers.

    Attributes:
      in_adjoint: whether this holds for the cotangents alone, and not for the arrays.
    """

    linear: ClassVar = ((0, 1),)

    in_adjoint: bool = False

    def outputs(self, a: Any, b: Any) -> list[Any]:
        return [a.update(weak_type=False), b.update(weak_type=False)]

    def form(self, a: jax.Array, b: jax.Array) -> list[jax.Array]:
        return [a, b] if self.in_adjoint else [*jax.lax.optimization_barrier((a, b))]

    def cpu_form(self, a: jax.Array, b: jax.Array) -> list[jax.Array]:
        return [a, b]

    def tpu_form(self, a: jax.Array, b: jax.Array) -> list[jax.Array]:
        return [a, b]

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        return [*call(Together(), *cts)]

    def batched(self, operands: Any, dims: Any) -> Any:
        return call(self, *operands), dims
