"""Equinox, in the style of its documentation: modules of one image `[C, H, W]`, mapped over the batch by `vmap`."""

# The type checker's environment does not contain this library.
# pyright: reportMissingImports=false

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import task as common


class LeNet5(eqx.Module):
    convs: list
    linears: list
    pool: eqx.nn.MaxPool2d

    def __init__(self, key):
        keys = jax.random.split(key, 5)
        self.convs = [eqx.nn.Conv2d(1, 6, 5, padding=2, key=keys[0]), eqx.nn.Conv2d(6, 16, 5, key=keys[1])]
        sizes = [(400, 120), (120, 84), (84, 10)]
        self.linears = [eqx.nn.Linear(a, b, key=k) for (a, b), k in zip(sizes, keys[2:], strict=True)]
        self.pool = eqx.nn.MaxPool2d(2, 2)

    def __call__(self, x, state):
        for conv in self.convs:
            x = self.pool(jax.nn.relu(conv(x)))
        x = x.reshape(-1)
        for linear in self.linears[:-1]:
            x = jax.nn.relu(linear(x))
        return self.linears[-1](x), state


class Unit(eqx.Module):
    """A convolution without bias, followed by batch normalization."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm

    def __init__(self, inputs, outputs, size, stride, key):
        self.conv = eqx.nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, use_bias=False, key=key)
        self.norm = eqx.nn.BatchNorm(outputs, axis_name="batch", momentum=0.9, eps=1e-5, mode="batch")

    def __call__(self, x, state):
        return self.norm(self.conv(x), state)


class Block(eqx.Module):
    units: list
    shortcut: Unit | None
    stride: int = eqx.field(static=True)

    def __init__(self, inputs, features, stride, bottleneck, pad_shortcut, key):
        keys, self.stride = jax.random.split(key, 4), stride
        if bottleneck:
            outputs, sizes = 4 * features, [(1, 1), (3, stride), (1, 1)]
            widths = [inputs, features, features, outputs]
        else:
            outputs, sizes = features, [(3, stride), (3, 1)]
            widths = [inputs, features, features]
        self.units = [Unit(widths[i], widths[i + 1], size, step, keys[i]) for i, (size, step) in enumerate(sizes)]
        project = not pad_shortcut and (stride > 1 or inputs != outputs)
        self.shortcut = Unit(inputs, outputs, 1, stride, keys[3]) if project else None

    def __call__(self, x, state):
        y = x
        for index, unit in enumerate(self.units):
            y, state = unit(y, state)
            y = jax.nn.relu(y) if index < len(self.units) - 1 else y
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        elif x.shape != y.shape:
            more = y.shape[0] - x.shape[0]
            x = jnp.pad(x[:, :: self.stride, :: self.stride], ((0, more), (0, 0), (0, 0)))
        return jax.nn.relu(x + y), state


class ResNet(eqx.Module):
    stem: Unit
    pool: eqx.nn.MaxPool2d | None
    blocks: list
    head: eqx.nn.Linear

    def __init__(self, model, key):
        spec, keys = common.RESNETS[model], iter(jax.random.split(key, 100))
        width = spec["width"]
        self.stem = Unit(3, width, 3 if spec["small"] else 7, 1 if spec["small"] else 2, next(keys))
        self.pool = None if spec["small"] else eqx.nn.MaxPool2d(3, 2, padding=1)
        self.blocks = []
        for features, stride in common.blocks(model):
            self.blocks.append(Block(width, features, stride, spec["bottleneck"], spec["pad"], next(keys)))
            width = 4 * features if spec["bottleneck"] else features
        self.head = eqx.nn.Linear(width, spec["classes"], key=next(keys))

    def __call__(self, x, state):
        x, state = self.stem(x, state)
        x = jax.nn.relu(x)
        x = x if self.pool is None else self.pool(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(x.mean((1, 2))), state


def build(task):
    common.check_supported(task)
    dtype = jnp.dtype(task["dtype"])
    make = LeNet5 if task["model"] == "lenet5" else partial(ResNet, task["model"])
    model, state = eqx.nn.make_with_state(make)(jax.random.key(0))
    images, labels = common.batch(task)
    images, labels = jax.device_put((images.transpose(0, 3, 1, 2), labels))
    optimizer = optax.sgd(common.LEARNING_RATE, common.MOMENTUM)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    params = sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))

    def objective(model, state, x, labels):
        cast = jax.tree.map(lambda p: p.astype(dtype) if eqx.is_inexact_array(p) else p, model)
        apply = jax.vmap(cast, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        logits, new = apply(x, state)
        new = jax.tree.map(lambda a, b: a.astype(b.dtype), new, state)
        return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean(), new

    @eqx.filter_jit(donate="all-except-first")
    def train_step(batch, model, state, opt_state):
        images, labels = batch
        x = (images.astype(dtype) / 255 - 0.5) / 0.25
        (loss, state), gradients = eqx.filter_value_and_grad(objective, has_aux=True)(model, state, x, labels)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return eqx.apply_updates(model, updates), state, opt_state, loss

    def step():
        nonlocal model, state, opt_state
        model, state, opt_state, loss = train_step((images, labels), model, state, opt_state)
        return loss

    return step, float, {"params": params, "versions": f"jax {jax.__version__}, equinox {eqx.__version__}"}
