"""Keras 3 on JAX, with the stateless training loop of its guide."""

# The type checker's environment does not contain this library.
# pyright: reportMissingImports=false

import os

os.environ["KERAS_BACKEND"] = "jax"

from functools import partial

import jax
import jax.numpy as jnp
import keras
import task as common
from keras import layers


def lenet5(x):
    x = layers.Conv2D(6, 5, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(16, 5, activation="relu")(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(120, activation="relu")(x)
    x = layers.Dense(84, activation="relu")(x)
    return layers.Dense(10, dtype="float32")(x)


def unit(x, features, size, stride=1):
    x = layers.ZeroPadding2D(size // 2)(x) if size > 1 and stride > 1 else x
    padding = "valid" if stride > 1 else "same"
    x = layers.Conv2D(features, size, stride, padding=padding, use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def block(x, features, stride, bottleneck, pad_shortcut):
    if bottleneck:
        y = layers.ReLU()(unit(x, features, 1))
        y = layers.ReLU()(unit(y, features, 3, stride))
        y = unit(y, 4 * features, 1)
    else:
        y = layers.ReLU()(unit(x, features, 3, stride))
        y = unit(y, features, 3)
    if x.shape != y.shape:
        if pad_shortcut:
            more = y.shape[-1] - x.shape[-1]
            x = x[:, ::stride, ::stride]
            x = keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, more)))
        else:
            x = unit(x, y.shape[-1], 1, stride)
    return layers.ReLU()(layers.Add()([x, y]))


def resnet(model, x):
    spec = common.RESNETS[model]
    if spec["small"]:
        x = layers.ReLU()(unit(x, spec["width"], 3))
    else:
        x = layers.ReLU()(unit(x, spec["width"], 7, 2))
        x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for features, stride in common.blocks(model):
        x = block(x, features, stride, spec["bottleneck"], spec["pad"])
    return layers.Dense(spec["classes"], dtype="float32")(layers.GlobalAveragePooling2D()(x))


def build(task):
    common.check_supported(task)
    policies = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
    keras.mixed_precision.set_dtype_policy(policies[task["dtype"]])
    inputs = keras.Input(tuple(task["image_shape"]))
    forward = lenet5 if task["model"] == "lenet5" else partial(resnet, task["model"])
    model = keras.Model(inputs, forward(inputs))
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(common.LEARNING_RATE, common.MOMENTUM)
    optimizer.build(model.trainable_variables)
    images, labels = jax.device_put(common.batch(task))

    def objective(trainable, non_trainable, x, labels):
        logits, non_trainable = model.stateless_call(trainable, non_trainable, x, training=True)
        return loss_fn(labels, logits), non_trainable

    @partial(jax.jit, donate_argnums=0)
    def train_step(state, images, labels):
        trainable, non_trainable, optimizer_variables = state
        x = (images.astype(jnp.float32) / 255 - 0.5) / 0.25
        gradient = jax.value_and_grad(objective, has_aux=True)
        (loss, non_trainable), gradients = gradient(trainable, non_trainable, x, labels)
        trainable, optimizer_variables = optimizer.stateless_apply(optimizer_variables, gradients, trainable)
        return (trainable, non_trainable, optimizer_variables), loss

    groups = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    state = tuple([jnp.array(v.value, copy=True) for v in group] for group in groups)
    params = sum(x.size for x in state[0])

    def step():
        nonlocal state
        state, loss = train_step(state, images, labels)
        return loss

    return step, float, {"params": params, "versions": f"jax {jax.__version__}, keras {keras.__version__}"}
