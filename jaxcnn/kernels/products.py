"""The product of a dense layer and its two gradients, with a kernel that is wider than the data.

`<G, X W>` is linear in each of input X `[..., C_in]`, kernel W `[C_in, features]` and cotangent G `[..., features]` of
the output. The product is its derivative with respect to G, and the two gradients are those with respect to X and W. As
in `jaxcnn.kernels.convolution`, one kernel with three roles is closed under differentiation of every order.

JAX's own gradient of a product has the dtype of its operands. For a float32 kernel and bfloat16 data that is a rounded
copy, which is widened again: with few rows of data both take longer than the product.
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
    """Multiply `[..., C_in]` by a kernel `[C_in, features]`, whose dtype may be wider than that of x.

    Returns `[..., features]` in the dtype of x, to which a wider kernel is rounded. Its gradient has its own dtype: the
    gradient of a float32 kernel over bfloat16 data is summed in float32 and not rounded.

    >>> dense(jnp.ones((2, 3)), jnp.ones((3, 4))).shape
    (2, 4)
    """
    return call(Dense(Role.OUTPUT, kernel.dtype.name), x, kernel)[0]


@dataclass(frozen=True)
class Dense(Trilinear):
    """One of the three tensors of a product, computed from the other two.

    Attributes:
      role: which of the three.
      kernel_dtype: name of the dtype of kernels and of their gradients; input and output have one dtype, which is not
        wider.
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
