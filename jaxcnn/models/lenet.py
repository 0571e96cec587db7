"""LeNet-5 (LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to Document Recognition, 1998)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.layers import Conv, Dense, Flatten, MaxPool, Sequential


class LeNet5(nn.Module):
    """LeNet-5 as it is usually written today: figure 2 of the paper, with a dense C3 and parameter-free pooling.

    `[N, 28, 28, C] -> [N, num_classes]`. The paper's 28x28 digits stand in a field of 32x32, which `padding` does
    here; give `padding=0` for images that are 32x32 themselves. 61,706 parameters at 28x28x1 and 10 classes.

    Fields:
      num_classes: number of logits.
      activation: the nonlinearity behind every layer but the last.
      pool: the pooling layer behind C1 and C3.
      padding: rows of zeros around the image.
    """

    num_classes: int = 10
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    pool: Callable[..., nn.Module] = MaxPool
    padding: int = 2
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        policy = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Sequential(
            [
                Conv(6, 5, padding=self.padding, **policy, name="C1"),  # 6 maps of 28x28
                self.activation,
                self.pool(2),  # S2: 6 of 14x14
                Conv(16, 5, **policy, name="C3"),  # 16 of 10x10
                self.activation,
                self.pool(2),  # S4: 16 of 5x5
                Flatten(),
                Dense(120, **policy, name="C5"),
                self.activation,
                Dense(84, **policy, name="F6"),
                self.activation,
                Dense(self.num_classes, dtype=jnp.float32, param_dtype=self.param_dtype, name="output"),
            ]
        )(x)


MODELS = {"lenet5": LeNet5}
