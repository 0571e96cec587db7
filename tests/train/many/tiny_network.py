"""A tiny network, with each kind of state: parameters, batch statistics, and randomness in training."""

import flax.linen as nn
import jax.numpy as jnp

from jaxcnn import layers


class Tiny(nn.Module):
    num_classes: int = 10
    dropout: float = 0.2
    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        x = layers.Conv(2, (3, 3), strides=(4, 4), dtype=self.dtype)(x)
        x = nn.relu(layers.BatchNorm(dtype=self.dtype)(x, train=train))
        x = layers.Dropout(self.dropout)(x.reshape(len(x), -1), train=train)
        return layers.Dense(self.num_classes, dtype=self.dtype)(x)
