"""Plain Flax Linen, in the style of Flax's ImageNet example."""

from functools import partial
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import task as common


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
                around = ((0, 0), (0, 0), (0, 0), (0, more))
                x = jnp.pad(x[:, :: self.stride, :: self.stride], around)
            else:
                x = self.norm()(self.conv(y.shape[-1], (1, 1), strides)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    model: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train):
        spec = common.RESNETS[self.model]
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        if spec["small"]:
            x = nn.relu(norm()(conv(spec["width"], (3, 3), padding=1)(x)))
        else:
            x = nn.relu(norm()(conv(spec["width"], (7, 7), (2, 2), padding=3)(x)))
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=[(1, 1), (1, 1)])  # pyright: ignore[reportArgumentType]
        for features, stride in common.blocks(self.model):
            x = Block(features, stride, spec["bottleneck"], spec["pad"], conv, norm)(x)
        x = x.mean((1, 2))
        return nn.Dense(spec["classes"], dtype=self.dtype)(x).astype(jnp.float32)


class VGG16(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x, train):
        for convolutions, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
            for _ in range(convolutions):
                x = nn.relu(nn.Conv(width, (3, 3), padding=1, dtype=self.dtype)(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(4096, dtype=self.dtype)(x))
            x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(1000, dtype=self.dtype)(x).astype(jnp.float32)


class DenseNet121(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x, train):
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        x = nn.relu(norm()(conv(64, (7, 7), (2, 2), padding=3)(x)))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=[(1, 1), (1, 1)])  # pyright: ignore[reportArgumentType]
        for block, layers in enumerate((6, 12, 24, 16)):
            for _ in range(layers):
                y = conv(128, (1, 1))(nn.relu(norm()(x)))
                y = conv(32, (3, 3), padding=1)(nn.relu(norm()(y)))
                x = jnp.concatenate([x, y], axis=-1)
            if block < 3:
                x = conv(x.shape[-1] // 2, (1, 1))(nn.relu(norm()(x)))
                x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(norm()(x)).mean((1, 2))
        return nn.Dense(1000, dtype=self.dtype)(x).astype(jnp.float32)


class GoogLeNet(nn.Module):
    """GoogLeNet as in torchvision: with batch normalization, and 3x3 kernels instead of 5x5."""

    dtype: Any

    @nn.compact
    def __call__(self, x, train):
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-3, dtype=self.dtype)

        def unit(x, features, size, stride=1):
            conv = nn.Conv(features, (size, size), (stride, stride), size // 2, use_bias=False, dtype=self.dtype)
            return nn.relu(norm()(conv(x)))

        def auxiliary(x):
            x = unit(nn.avg_pool(x, (5, 5), strides=(3, 3)), 128, 1).reshape(len(x), -1)
            x = nn.Dropout(0.7, deterministic=not train)(nn.relu(nn.Dense(1024, dtype=self.dtype)(x)))
            return nn.Dense(1000, dtype=self.dtype)(x).astype(jnp.float32)

        x = nn.max_pool(unit(x, 64, 7, 2), (3, 3), strides=(2, 2), padding="SAME")
        x = nn.max_pool(unit(unit(x, 64, 1), 192, 3), (3, 3), strides=(2, 2), padding="SAME")
        aux = []
        for name, (n1, reduce3, n3, reduce5, n5, pooled) in common.INCEPTION.items():
            if name in ("4a", "5a"):
                x = nn.max_pool(x, (3, 3) if name == "4a" else (2, 2), strides=(2, 2), padding="SAME")
            branch3, branch5 = unit(unit(x, reduce3, 1), n3, 3), unit(unit(x, reduce5, 1), n5, 3)
            branch_pool = unit(nn.max_pool(x, (3, 3), padding="SAME"), pooled, 1)
            x = jnp.concatenate([unit(x, n1, 1), branch3, branch5, branch_pool], axis=-1)
            if train and name in ("4a", "4d"):
                aux.append(auxiliary(x))
        x = nn.Dropout(0.2, deterministic=not train)(x.mean((1, 2)))
        logits = nn.Dense(1000, dtype=self.dtype)(x).astype(jnp.float32)
        return (logits, *aux) if train else logits


NETWORKS = {"lenet5": LeNet5, "vgg16": VGG16, "densenet121": DenseNet121, "googlenet_bn": GoogLeNet}


def network(task):
    if task["model"] in common.TORCH_MODELS:
        raise NotImplementedError(f"no such model: {task['model']} is not implemented for this library")
    dtype = jnp.dtype(task["dtype"])
    return NETWORKS[task["model"]](dtype) if task["model"] in NETWORKS else ResNet(task["model"], dtype)


def training(task):
    """Return a function that creates the state, and the training step; neither is compiled yet."""
    dtype, model = jnp.dtype(task["dtype"]), network(task)
    optimizer = optax.sgd(common.LEARNING_RATE, common.MOMENTUM)

    @jax.jit
    def initialize():
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        variables = model.init(keys, jnp.zeros((1, *task["image_shape"])), train=True)
        state = variables["params"], variables.get("batch_stats", {}), optimizer.init(variables["params"])
        return *state, jax.random.key(2)

    @partial(jax.jit, donate_argnums=0)
    def train_step(state, images, labels):
        params, batch_stats, opt_state, key = state
        key, dropout_key = jax.random.split(key)
        x = (images.astype(dtype) / 255 - 0.5) / 0.25

        def objective(params):
            logits, updates = model.apply(
                {"params": params, "batch_stats": batch_stats},
                x,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats"],
            )
            logits, *aux = logits if isinstance(logits, tuple) else (logits,)
            cross_entropy = optax.softmax_cross_entropy_with_integer_labels
            loss = cross_entropy(logits, labels).mean() + 0.3 * sum(cross_entropy(a, labels).mean() for a in aux)
            return loss, updates.get("batch_stats", {})

        (loss, batch_stats), gradients = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), batch_stats, opt_state, key), loss

    return initialize, train_step


def build(task):
    images, labels = jax.device_put(common.batch(task))
    initialize, train_step = training(task)
    state = initialize()
    params = sum(x.size for x in jax.tree.leaves(state[0]))

    def step():
        nonlocal state
        state, loss = train_step(state, images, labels)
        return loss

    about = {"params": params, "versions": f"jax {jax.__version__}, flax {flax.__version__}"}
    return step, float, about
