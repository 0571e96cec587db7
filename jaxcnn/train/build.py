"""The parts of a run that have names in its configuration, or are the user's own objects."""

import ast
import dataclasses
import functools
import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcnn.data import compose
from jaxcnn.errors import UsageError
from jaxcnn.layers import Partial
from jaxcnn.models import create_model
from jaxcnn.train.config import Config
from jaxcnn.train.custom import CustomParts, check_given
from jaxcnn.train.losses import Loss, make_loss
from jaxcnn.train.optim.freezing import train_only_rest
from jaxcnn.train.optim.mixed_precision import dynamic_loss_scale
from jaxcnn.train.optim.optimizers import make_optimizer
from jaxcnn.train.state import TrainState


def build_model(
    config: Config, custom: CustomParts, num_classes: int, norm_fields: dict[str, Any] | None = None
) -> nn.Module:
    """The architecture of this name with its options, or the user's own; in the precision of the run.

    `norm_fields` are set in the normalisation of a model that has some as its field `norm`.
    """
    model = _build_model(config, custom, num_classes)
    norm = getattr(model, "norm", None)
    # The model's own constructor of its normalisation, whose other fields stay what they are.
    return model.clone(norm=Partial(norm, **norm_fields)) if norm_fields and norm is not None else model


def _build_model(config: Config, custom: CustomParts, num_classes: int) -> nn.Module:
    dtype: dict[str, Any] = {} if config.dtype == "float32" else {"dtype": jnp.dtype(config.dtype)}
    if custom.model is not None:
        if config.model_options:
            raise UsageError("model_options are of named architectures; give a model of your own its fields itself")
        if "train" not in inspect.signature(type(custom.model).__call__).parameters:
            raise UsageError(f"model must take `train`: {type(custom.model).__name__}.__call__(self, x, *, train)")
        names = [field.name for field in dataclasses.fields(custom.model)]  # type: ignore[arg-type]
        if dtype and "dtype" not in names:
            raise UsageError(f"dtype {config.dtype}: {type(custom.model).__name__} has no field `dtype` to take it")
        return custom.model.clone(**dtype) if dtype else custom.model
    check_given("model", config.model)
    fields = dict(map(_parse_option, config.model_options))
    return create_model(config.model, num_classes, **fields, **dtype)


def _parse_option(option: str) -> tuple[str, Any]:
    """A field and its value, a Python literal or else a string: "drop_path_rate=0.1", "stem=cifar"."""
    name, equals, value = option.partition("=")
    if not name or not equals:
        raise UsageError(f"model_options are of the form NAME=VALUE, got {option!r}")
    if name in ("num_classes", "norm", "dtype", "param_dtype", "block", "parent", "name"):
        raise UsageError(f"model_options cannot set {name!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def build_losses(config: Config, custom: CustomParts) -> tuple[Loss, Loss]:
    """The loss in training, and the one in testing, whose labels are not smoothed."""
    if custom.loss is None:
        check_given("loss", config.loss)
        return make_loss(config.loss, config.label_smoothing), make_loss(config.loss)
    if config.label_smoothing not in (0.0, Config.label_smoothing):
        raise UsageError("label_smoothing is of named losses; smooth the labels in the loss of your own")
    return custom.loss, custom.loss


def build_augmentations(config: Config, custom: CustomParts) -> tuple[Any, ...]:
    """The changes made to each training image: names, or the user's own function."""
    if custom.augment is not None:
        return (custom.augment,)
    for spec in config.augment:
        check_given("augment", spec)
    compose(config.augment)  # refuses unknown names
    return config.augment


def build_optimizer(config: Config, custom: CustomParts, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer, of what is not frozen; under a loss scale if the run is in float16."""
    if custom.optimizer is None:
        check_given("optimizer", config.optimizer.name)
        optimizer = make_optimizer(config.optimizer, schedule)
    elif isinstance(custom.optimizer, optax.GradientTransformation):
        optimizer = custom.optimizer
    else:
        optimizer = custom.optimizer(schedule)
    if config.freeze is not None:
        optimizer = train_only_rest(optimizer, config.freeze)
    return dynamic_loss_scale(optimizer) if config.dtype == "float16" else optimizer


def check_shapes(
    image_shape: tuple[int, ...], num_classes: int, model: nn.Module, template: TrainState, loss: Loss, augment: Any
) -> None:
    """Raises `UsageError` if a custom part does not return what the step needs."""
    variables = {"params": template.params, "batch_stats": template.batch_stats}
    key, image = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct(image_shape, jnp.uint8)
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    logits = jax.eval_shape(functools.partial(model.apply, train=False), variables, images)
    _check_shape("model", "two images", logits, (2, num_classes))
    _check_shape("loss", "two images", jax.eval_shape(loss, logits, labels), (2,))
    if augment is not None:
        _check_shape("augment", "an image", jax.eval_shape(augment, key, image), image_shape)


def _check_shape(part: str, of: str, returned: Any, wanted: tuple[int, ...]) -> None:
    got = getattr(returned, "shape", None)
    if got != wanted:
        raise UsageError(f"{part} must return an array of shape {wanted} for {of}, got {got or type(returned)}")
