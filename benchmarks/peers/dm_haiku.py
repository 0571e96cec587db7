"""dm-haiku, in the style of its ImageNet example."""

# The type checker's environment does not contain this library.
# pyright: reportMissingImports=false

from functools import partial

import haiku as hk
import jax
import jax.numpy as jnp
import optax
import task as common

norm = partial(hk.BatchNorm, create_scale=True, create_offset=True, decay_rate=0.9, eps=1e-5)
conv = partial(hk.Conv2D, with_bias=False)


def lenet5(x):
    x = jax.nn.relu(hk.Conv2D(6, 5, padding=[(2, 2), (2, 2)])(x))
    x = hk.max_pool(x, 2, 2, "VALID")
    x = jax.nn.relu(hk.Conv2D(16, 5, padding="VALID")(x))
    x = hk.max_pool(x, 2, 2, "VALID")
    x = hk.Flatten()(x)
    x = jax.nn.relu(hk.Linear(120)(x))
    x = jax.nn.relu(hk.Linear(84)(x))
    return hk.Linear(10)(x)


def block(x, features, stride, bottleneck, pad_shortcut):
    around = [(1, 1), (1, 1)]
    if bottleneck:
        y = jax.nn.relu(norm()(conv(features, 1)(x), True))
        y = jax.nn.relu(norm()(conv(features, 3, stride, padding=around)(y), True))
        y = norm()(conv(4 * features, 1)(y), True)
    else:
        y = jax.nn.relu(norm()(conv(features, 3, stride, padding=around)(x), True))
        y = norm()(conv(features, 3, padding=around)(y), True)
    if x.shape != y.shape:
        if pad_shortcut:
            more = y.shape[-1] - x.shape[-1]
            x = jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (0, more)))
        else:
            x = norm()(conv(y.shape[-1], 1, stride)(x), True)
    return jax.nn.relu(x + y)


def resnet(model, x):
    spec = common.RESNETS[model]
    if spec["small"]:
        x = jax.nn.relu(norm()(conv(spec["width"], 3, padding=[(1, 1), (1, 1)])(x), True))
    else:
        x = jax.nn.relu(norm()(conv(spec["width"], 7, 2, padding=[(3, 3), (3, 3)])(x), True))
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # after a ReLU, zeros do not change the maximum
        x = hk.max_pool(x, (3, 3, 1), (2, 2, 1), "VALID")
    for features, stride in common.blocks(model):
        x = block(x, features, stride, spec["bottleneck"], spec["pad"])
    return hk.Linear(spec["classes"])(x.mean((1, 2)))


def build(task):
    common.check_supported(task)
    dtype = jnp.dtype(task["dtype"])
    forward = lenet5 if task["model"] == "lenet5" else partial(resnet, task["model"])
    network = hk.transform_with_state(forward)
    images, labels = jax.device_put(common.batch(task))
    optimizer = optax.sgd(common.LEARNING_RATE, common.MOMENTUM)

    @jax.jit
    def initialize():
        params, state = network.init(jax.random.key(0), jnp.zeros((1, *task["image_shape"])))
        return params, state, optimizer.init(params)

    @partial(jax.jit, donate_argnums=0)
    def train_step(carried, images, labels):
        params, state, opt_state = carried
        x = (images.astype(dtype) / 255 - 0.5) / 0.25

        def objective(params):
            cast = jax.tree.map(lambda p: p.astype(dtype), params)
            logits, new = network.apply(cast, state, None, x)
            new = jax.tree.map(lambda a, b: a.astype(b.dtype), new, state)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()
            return loss, new

        (loss, state), gradients = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), state, opt_state), loss

    carried = initialize()
    params = sum(x.size for x in jax.tree.leaves(carried[0]))

    def step():
        nonlocal carried
        carried, loss = train_step(carried, images, labels)
        return loss

    return step, float, {"params": params, "versions": f"jax {jax.__version__}, dm-haiku {hk.__version__}"}
