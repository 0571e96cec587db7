"""Plain Flax Linen, in the manner of Flax's own ImageNet example."""

from functools import partial
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import task as asked


class LeNet5(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Conv(6, (5, 5), padding=2, dtype=self.dtype)(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(16, (5, 5), padding="VALID", dtype=self.dtype)(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(120, dtype=self.dtype)(x))
        x = nn.relu(nn.Dense(84, dtype=self.dtype)(x))
        return nn.Dense(10, dtype=self.dtype)(x).astype(jnp.float32)


class Block(nn.Module):
    features: int
    stride: int
    bottleneck: bool
    pad_shortcut: bool
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x):
        strides = (self.stride, self.stride)
        if self.bottleneck:
            y = nn.relu(self.norm()(self.conv(self.features, (1, 1))(x)))
            y = nn.relu(self.norm()(self.conv(self.features, (3, 3), strides, padding=1)(y)))
            y = self.norm()(self.conv(4 * self.features, (1, 1))(y))
        else:
            y = nn.relu(self.norm()(self.conv(self.features, (3, 3), strides, padding=1)(x)))
            y = self.norm()(self.conv(self.features, (3, 3), padding=1)(y))
        if x.shape != y.shape:
            if self.pad_shortcut:
                more = y.shape[-1] - x.shape[-1]
                around = ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2))
                x = jnp.pad(x[:, :: self.stride, :: self.stride], around)
            else:
                x = self.norm()(self.conv(y.shape[-1], (1, 1), strides)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    model: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train):
        spec = asked.RESNETS[self.model]
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        if spec["small"]:
            x = nn.relu(norm()(conv(spec["width"], (3, 3), padding=1)(x)))
        else:
            x = nn.relu(norm()(conv(spec["width"], (7, 7), (2, 2), padding=3)(x)))
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=[(1, 1), (1, 1)])  # pyright: ignore[reportArgumentType]
        for features, stride in asked.blocks(self.model):
            x = Block(features, stride, spec["bottleneck"], spec["small"], conv, norm)(x)
        x = x.mean((1, 2))
        return nn.Dense(spec["classes"], dtype=self.dtype)(x).astype(jnp.float32)


def build(task):
    asked.check_written(task)
    dtype = jnp.dtype(task["dtype"])
    model = LeNet5(dtype) if task["model"] == "lenet5" else ResNet(task["model"], dtype)
    images, labels = jax.device_put(asked.batch(task))
    optimizer = optax.sgd(asked.LEARNING_RATE, asked.MOMENTUM)

    @jax.jit
    def initialize():
        variables = model.init(jax.random.key(0), jnp.zeros((1, *task["image_shape"])), train=True)
        return variables["params"], variables.get("batch_stats", {}), optimizer.init(variables["params"])

    @partial(jax.jit, donate_argnums=0)
    def train_step(state, images, labels):
        params, batch_stats, opt_state = state
        x = (images.astype(dtype) / 255 - 0.5) / 0.25

        def objective(params):
            logits, updates = model.apply(
                {"params": params, "batch_stats": batch_stats}, x, train=True, mutable=["batch_stats"]
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, updates.get("batch_stats", {})

        (loss, batch_stats), gradients = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), batch_stats, opt_state), loss

    state = initialize()
    params = sum(x.size for x in jax.tree.leaves(state[0]))

    def step():
        nonlocal state
        state, loss = train_step(state, images, labels)
        return loss

    about = {"params": params, "versions": f"jax {jax.__version__}, flax {flax.__version__}"}
    return step, float, about
