"""The product of a dense layer and its two gradients, for a kernel with a wider dtype than the data.

The form `<G, X W>` is linear in each of its three tensors: input X `[..., C_in]`, kernel W `[C_in, features]`, and
cotangent G `[..., features]` of the output. The derivative with respect to G is the product, and the derivatives with
respect to X and W are its two gradients. As in `jaxcnn.kernels.convolution`, one kernel with three roles suffices for
derivatives of every order.

JAX's own gradient of a product has the dtype of its operands. For bfloat16 data, JAX would use a copy of a float32
kernel that is rounded to bfloat16, and convert the gradient back to float32. With few rows of data, both conversions
take longer than the product.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.array_types import Array, Float, InputArray
from jaxcnn.kernels._primitive import call
from jaxcnn.kernels._trilinear import Role, Trilinear


def dense(
    x: Float[InputArray, "*batch c_in"], kernel: Float[InputArray, "c_in features"]
) -> Float[Array, "*batch features"]:
    """Multiply `x` `[..., C_in]` by a kernel `[C_in, features]`, whose dtype may be wider than the dtype of x.

    Return `[..., features]` in the dtype of x. A wider kernel is rounded to this dtype. The gradient of the kernel has
    the kernel's dtype: over bfloat16 data, the gradient of a float32 kernel is summed in float32 and not rounded.

    >>> dense(jnp.ones((2, 3)), jnp.ones((3, 4))).shape
    (2, 4)
    """
    return call(Dense(Role.OUTPUT, kernel.dtype.name), x, kernel)[0]


@dataclass(frozen=True)
class Dense(Trilinear):
    """Compute one of the three tensors of a product (input, kernel, cotangent of the output) from the other two.

    Attributes:
      role: the tensor that is computed.
      kernel_dtype: name of the dtype of kernels and their gradients, at least as wide as the dtype of input and output.
    """

    role: Role
    kernel_dtype: str

    def outputs(self, a: Any, b: Any) -> list[Any]:
        if self.role is Role.KERNEL:
            return [a.update(shape=(a.shape[-1], b.shape[-1]), dtype=np.dtype(self.kernel_dtype), weak_type=False)]
        return [a.update(shape=(*a.shape[:-1], b.shape[1 - self.role]), weak_type=False)]

    def form(self, a: jax.Array, b: jax.Array) -> list[jax.Array]:
        if self.role is Role.KERNEL:
            leading = tuple(range(a.ndim - 1))
            wide = jnp.promote_types(a.dtype, jnp.float32)
            y = jax.lax.dot_general(a, b, ((leading, leading), ((), ())), preferred_element_type=wide)
            return [y.astype(self.kernel_dtype)]
        axes = (a.ndim - 1,), (self.role.value,)
        return [jax.lax.dot_general(a, b.astype(a.dtype), (axes, ((), ())), preferred_element_type=a.dtype)]

    def batched(self, operands: Any, dims: Any) -> Any:
        (a, b), (along, other) = operands, dims
        if self.role is Role.KERNEL or other is not None:
            return super().batched(operands, dims)
        return call(self, jnp.moveaxis(a, along, 0), b), [0]
