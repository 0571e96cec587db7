"""Build the parts of a run, such as its model. The configuration names a part, or the user passes the part to `fit`.

The configuration of a run records a user's part as the text "custom:", followed by a description of the part. The run
can be resumed only with parts that have the same description.
"""

import ast
import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.analysis.image_size import too_small
from jaxcnn.data import compose
from jaxcnn.data.augment import OF_THE_PIPELINE
from jaxcnn.errors import TooSmallError, UsageError, unknown_name
from jaxcnn.layers import Partial
from jaxcnn.layers.partial import module_fields
from jaxcnn.models import create_model
from jaxcnn.train.config import Config, OptimizerConfig
from jaxcnn.train.config.parts import immutable
from jaxcnn.train.gradient import Gradient, accumulated, plain, scaled
from jaxcnn.train.losses import Loss, make_loss, weighted
from jaxcnn.train.metrics import Metric, as_metrics, make_metrics
from jaxcnn.train.mixing import make_mix
from jaxcnn.train.optim.freezing import Freezing, freeze_after
from jaxcnn.train.optim.mixed_precision import dynamic_loss_scale, loss_scale
from jaxcnn.train.optim.optimizers import make_optimizer, resolve
from jaxcnn.train.state import TrainState
from jaxcnn.train.task import Classification, Task

PREFIX = "custom:"

MAX_NAME = 100
"""Largest length of a custom part's description in messages and tables. Longer descriptions are cut."""

Part = TypeVar("Part")


@dataclasses.dataclass(frozen=True)
class CustomParts:
    """Python objects that the user has passed to `fit`, in place of parts that the configuration names.

    Attributes:
      model: a Linen module, `model(x, train=...) -> logits [N, classes]`.
      loss: loss function for training and evaluation, `(logits [N, classes], labels [N]) -> [N]`.
      augment: augmentation of training images on the device, `(key, image [H, W, C]) -> [H, W, C]`.
      optimizer: an Optax gradient transformation, or a function `schedule -> transformation`.
      task: the task, in place of classification. With a task, `loss`, `augment` and `metrics` must be None.
      gradient: function that computes the gradient, `(loss, params) -> (gradients, aux)`, in place of `gradient.plain`.
      metrics: metrics of evaluations by name. Each metric is a `Metric`, or a function
        `(logits [N, classes], labels) -> [N]`.
    """

    model: nn.Module | None = None
    loss: Callable[..., Any] | None = None
    augment: Callable[..., Any] | None = None
    optimizer: optax.GradientTransformation | Callable[[optax.Schedule], optax.GradientTransformation] | None = None
    task: Task | None = None
    gradient: Gradient | None = None
    metrics: Mapping[str, Any] | None = None

    def recorded(self, config: Config) -> Config:
        """Return the configuration that a run records, with descriptions of custom parts and the default momentum."""
        changed: dict[str, Any] = {}
        if self.model is not None:
            changed["model"] = PREFIX + describe(self.model)
        if self.loss is not None:
            changed |= {"loss": PREFIX + describe(self.loss), "label_smoothing": 0.0}
        if self.augment is not None:
            changed["augment"] = (PREFIX + describe(self.augment),)
        if self.task is not None:
            changed |= {"task": PREFIX + describe(self.task), "augment": (), "label_smoothing": 0.0}
        if self.gradient is not None:
            changed["gradient"] = PREFIX + describe(self.gradient)
        if self.metrics:
            own = [f"{PREFIX}{name}={describe(metric)}" for name, metric in self.metrics.items()]
            changed["metrics"] = (*config.metrics, *own)
        if self.optimizer is None:
            changed["optimizer"] = resolve(config.optimizer)
        else:
            changed["optimizer"] = dataclasses.replace(config.optimizer, name=PREFIX + describe(self.optimizer))
        return dataclasses.replace(config, **changed)


def named_or_custom(kind: str, name: str, custom: Part | None, make: Callable[[], Part]) -> Part:
    """Return the user's own object if it is not None, else make the part that the configuration names.

    Args:
      kind: the argument of `fit`, such as "model".
      name: the name in the configuration.
      custom: the object that the user has passed, or None.
      make: function that makes the named part, or raises `UsageError` for an unknown name.

    Raises:
      UsageError: if `custom` is None, but `name` describes a custom part that was passed at an earlier start of the
        run.
    """
    if custom is not None:
        return custom
    if name.startswith(PREFIX):
        again = f"Pass this object again in Python: {kind}=..."
        if kind == "model":
            again += ", as in load_run(folder, model=...); on the command line: --model FILE.py:NAME"
        raise UsageError(f"this run used a custom {kind}: {short_name(name)}. {again}.")
    return make()


def short_name(name: str) -> str:
    """Return the name of a part, or the description of a custom part, cut to at most `MAX_NAME` characters.

    >>> short_name("custom:package.Net(width=8)"), len(short_name("custom:" + "x" * 6000))
    ('package.Net(width=8)', 100)
    """
    text = " ".join(name.removeprefix(PREFIX).split())
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 3]}..."


def build_model(
    config: Config, custom: CustomParts, num_classes: int, norm_fields: dict[str, Any] | None = None
) -> nn.Module:
    """Return the model of a run, with the run's precision.

    Args:
      config: configuration of the run, which names the architecture and its options.
      custom: parts that the user has passed, which may include a model.
      num_classes: number of logits of a registered model; 0 if the data has no classes.
      norm_fields: fields to set in the model's normalization modules, if the model has the field `norm`.

    Raises:
      UsageError: if the name or an option is unknown, or if the user's model does not support the configuration.
    """
    dtype: dict[str, Any] = {} if config.dtype == "float32" else {"dtype": jnp.dtype(config.dtype)}

    def named_model() -> nn.Module:
        if not num_classes:
            raise UsageError(
                f"the data has no classes, so the number of outputs of model {config.model!r} is unknown. "
                "Pass a model of your own: fit(config, task=..., model=...)"
            )
        fields = dict(map(parse_option, config.model_options))
        return create_model(config.model, num_classes, **fields, **dtype)

    if custom.model is not None:
        _check_model(custom.model, config)
    model = named_or_custom("model", config.model, custom.model, named_model)
    if custom.model is not None and dtype:
        model = model.clone(**dtype)
    norm = getattr(model, "norm", None)
    if norm is None or not norm_fields:
        return model
    known = module_fields(norm)  # a normalization without batch statistics lacks these fields
    fields = {name: value for name, value in norm_fields.items() if known is None or name in known}
    return model.clone(norm=Partial(norm, **fields)) if fields else model


def _check_model(model: nn.Module, config: Config) -> None:
    name = type(model).__name__
    if config.model_options:
        raise UsageError("model_options does not apply to your own model. Set the fields on your module.")
    if "train" not in inspect.signature(type(model).__call__).parameters:
        raise UsageError(f"model {name} does not accept the argument train. Define __call__(self, x, *, train).")
    fields = [field.name for field in dataclasses.fields(model)]  # type: ignore[arg-type]
    if config.dtype != "float32" and "dtype" not in fields:
        raise UsageError(f"dtype is {config.dtype}, but model {name} has no field dtype. Add the field, or omit dtype.")


def parse_option(option: str) -> tuple[str, Any]:
    """Parse a model option, such as "drop_path_rate=0.1" or "stem=cifar", to the name of a field and its value.

    The value is parsed as a Python literal. A value that is not a literal is returned as a string.
    """
    name, equals, value = option.partition("=")
    if not name or not equals:
        raise UsageError(f"model_options must have the form NAME=VALUE, got {option!r}")
    if name in ("num_classes", "norm", "dtype", "param_dtype", "block", "parent", "name"):
        raise UsageError(f"model_options cannot set {name!r}. Omit this option.")
    try:
        return name, immutable(ast.literal_eval(value))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # the last two for deeply nested values
        return name, value


def build_template(
    config: Config, model: nn.Module, image_shape: tuple[int, ...], create: Callable[[], TrainState]
) -> TrainState:
    """Return the tree structure, shapes and dtypes of the state that `create` returns, without computing the state.

    Raises:
      UsageError: if the images are too small for the model, or if the model does not support `config.model_options`.
        For too small images, the error message names the smallest image size.
    """
    try:
        return jax.eval_shape(create)
    except TooSmallError:
        raise too_small(type(model).__name__, model, image_shape, train=True) from None
    except UsageError:
        raise
    except Exception as error:  # a field with a value of a wrong type can cause errors of any type
        if not config.model_options:
            raise
        reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise UsageError(f"model_options cannot be used: {' '.join(config.model_options)}. {reason}") from error


OF_CLASSIFICATION = (
    *("loss", "label_smoothing", "augment", "mixup", "cutmix", "class_weights", "aux_weight", "tta", "metrics"),
)
"""Fields of the configuration that are used only if the task is classification."""


def build_task(
    config: Config, custom: CustomParts, *, augment: Any, weights: Sequence[float] | None, num_classes: int, soft: bool
) -> Task:
    """Return the task of a run, not yet bound to the preprocessing.

    Args:
      config: configuration of the run, which names loss and metrics.
      custom: parts that the user has passed, which may include a task.
      augment: augmentation on the device, `(key, image) -> image`, or None.
      weights: weight of each class in the training loss, or None.
      num_classes: number of classes.
      soft: whether each label is a vector with one weight per class, so that labels are `[N, classes]`.

    Raises:
      UsageError: if a name is unknown, or if a field is set that the user's own task does not use.
    """
    if custom.task is not None:
        _check_unused_by_task(config, custom)
        return custom.task
    if config.task != "classification":
        named_or_custom("task", config.task, None, lambda: None)
        raise unknown_name("task", config.task, ["classification"])
    loss, test_loss = build_losses(config, custom)
    return Classification(
        train_loss=loss if weights is None else weighted(loss, weights),
        test_loss=test_loss,
        augment=augment,
        mix=make_mix(config.mixup, config.cutmix),
        metrics=build_metrics(config, custom, num_classes, soft=soft),
        aux_weight=config.aux_weight,
        tta=config.tta,
    )


def _check_unused_by_task(config: Config, custom: CustomParts) -> None:
    own = [name for name in ("loss", "augment", "metrics") if getattr(custom, name) is not None]
    if own:
        raise UsageError(f"{own[0]} applies only to classification. Use your {own[0]} in your own task.")
    usual = CustomParts(task=custom.task).recorded(Config())
    for name in OF_CLASSIFICATION:
        value = getattr(config, name)
        if value not in (getattr(Config, name), getattr(usual, name)):
            raise UsageError(
                f"{name} applies only to classification, got {value!r}. Implement {name} in your own task."
            )


def build_metrics(config: Config, custom: CustomParts, num_classes: int, *, soft: bool) -> dict[str, Metric]:
    """Return the metrics of evaluations by name: the metrics that the configuration names, and the user's own metrics.

    Raises:
      UsageError: if a name is unknown or given twice, if the configuration records a custom metric that the user has
        not passed again, or if the user's metrics are not a dict.
    """
    own = as_metrics(custom.metrics or {})
    names = [name for name in config.metrics if not (name.startswith(PREFIX) and _own_name(name) in own)]
    for name in names:
        named_or_custom("metrics", name, None, lambda: None)
    named = make_metrics(names, num_classes, multi_label=soft)
    for name in own:
        if name in (*named, "loss", "accuracy", "examples"):
            raise UsageError(f"metrics contains {name!r}, the name of another metric. Choose another name.")
    return {**named, **own}


def _own_name(record: str) -> str:
    """Return the name of a user's metric from the text "custom:NAME=DESCRIPTION" in a recorded configuration."""
    return record.removeprefix(PREFIX).partition("=")[0]


def build_losses(config: Config, custom: CustomParts) -> tuple[Loss, Loss]:
    """Return the training loss and the test loss. Only the training loss uses label smoothing."""
    if custom.loss is not None and config.label_smoothing not in (0.0, Config.label_smoothing):
        raise UsageError("label_smoothing does not apply to your own loss. Smooth the labels in your loss.")
    smoothing = config.label_smoothing
    train = named_or_custom("loss", config.loss, custom.loss, lambda: make_loss(config.loss, smoothing))
    return train, named_or_custom("loss", config.loss, custom.loss, lambda: make_loss(config.loss))


def build_augmentations(config: Config, custom: CustomParts) -> tuple[Any, ...]:
    """Return the augmentations of training images as names and functions, the input of `data.compose`."""
    if custom.augment is not None:
        return (custom.augment,)
    for spec in config.augment:
        if spec not in OF_THE_PIPELINE:
            named_or_custom("augment", spec, None, lambda spec=spec: compose([spec]))  # checks the name
    return config.augment


def build_optimizer(
    config: Config, custom: CustomParts, schedule: optax.Schedule, steps_per_epoch: float = 1.0
) -> optax.GradientTransformation:
    """Return the optimizer of the trainable parameters, with a loss scale if the dtype is float16.

    The tree structure of the optimizer's state does not depend on `schedule` and `steps_per_epoch`. Use the optimizer
    with the gradient function of `build_gradient`.
    """
    own = custom.optimizer
    if own is not None:
        _check_unused(config.optimizer, uses_schedule=not isinstance(own, optax.GradientTransformation))
    if isinstance(own, optax.MultiSteps):
        own = own.gradient_transformation()
    elif own is not None and not isinstance(own, optax.GradientTransformation):
        own = own(schedule)
    name = config.optimizer.name
    optimizer = named_or_custom("optimizer", name, own, lambda: make_optimizer(config.optimizer, schedule))
    optimizer = freeze_after(optimizer, config.freeze_after, steps_per_epoch)
    if config.freeze is not None:
        optimizer = Freezing(config.freeze).optimizer(optimizer)
    return dynamic_loss_scale(optimizer) if config.dtype == "float16" else optimizer


def _check_unused(config: OptimizerConfig, *, uses_schedule: bool) -> None:
    """Raise `UsageError` if a field of `config` is set that the user's own optimizer does not use.

    The recorded configuration of a run is not checked, since version 0.1 accepted all fields.
    """
    if config.options or config.momentum is not None:
        raise UsageError("optimizer keywords do not apply to your own optimizer. Set the keywords on your optimizer.")
    usual = OptimizerConfig(config.name, config.learning_rate) if uses_schedule else OptimizerConfig(config.name)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(usual, field.name) and not config.name.startswith(PREFIX):
            raise UsageError(
                f"optimizer.{field.name} does not apply to your own optimizer, got {value}. "
                "Set this value on your optimizer."
            )


def build_gradient(config: Config, accumulate: int, custom: CustomParts) -> Gradient:
    """Return the gradient function of a training step that sums the gradients of `accumulate` micro-batches.

    Use the function with the optimizer of `build_optimizer`. A gradient function of the user replaces `gradient.plain`,
    and is called for each micro-batch. With the dtype float16, the user's gradient function gets the scaled loss.
    """

    def named() -> Gradient:
        if config.gradient != "plain":
            raise unknown_name("gradient", config.gradient, ["plain"])
        return plain

    gradient = accumulated(accumulate, named_or_custom("gradient", config.gradient, custom.gradient, named))
    if config.dtype == "float16":
        gradient = scaled(loss_scale, gradient)
    return gradient if config.freeze is None else Freezing(config.freeze).gradient(gradient)


def describe(part: Any) -> str:
    """Describe a function, class or object: its qualified name, and the arguments of a `partial` or fields of a module.

    Two functions with equal names, such as two lambdas in one function, have equal descriptions.

    >>> describe(nn.relu), describe(nn.Dense(10, use_bias=False))[:45]
    ('jax._src.nn.functions.relu', 'flax.linen.linear.Dense(features=10, use_bias')
    """
    if isinstance(part, optax.GradientTransformation):
        return describe(part.update)
    if isinstance(part, nn.Module):
        fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}  # type: ignore[arg-type]
        return describe(type(part)) + _arguments((), {k: v for k, v in fields.items() if k not in ("parent", "name")})
    if isinstance(part, functools.partial):
        return describe(part.func) + _arguments(part.args, part.keywords)
    if isinstance(part, Mapping):
        return "{" + ", ".join(f"{describe(key)}: {describe(value)}" for key, value in part.items()) + "}"
    if isinstance(part, list | tuple):
        return "(" + ", ".join(map(describe, part)) + ")"
    if isinstance(part, np.ndarray | jax.Array):
        digest = hashlib.sha256(np.ascontiguousarray(jax.device_get(part)).tobytes()).hexdigest()
        return f"array({part.dtype}, {part.shape}, sha256={digest[:16]})"
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return describe(type(part)) + _arguments((), {f.name: getattr(part, f.name) for f in dataclasses.fields(part)})
    wrapped = getattr(part, "__wrapped__", part)
    if hasattr(wrapped, "__qualname__"):
        return f"{wrapped.__module__}.{wrapped.__qualname__}"
    if part is None or isinstance(part, str | int | float | bool | complex | np.dtype):
        return repr(part)
    return describe(type(part))


def _arguments(args: Any, keywords: Mapping[str, Any]) -> str:
    return "(" + ", ".join([*map(describe, args), *(f"{name}={describe(x)}" for name, x in keywords.items())]) + ")"
