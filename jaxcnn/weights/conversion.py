"""Convert between named arrays in a file and the variables of a model.

Our names are the paths of the variables: "params/stage1_block1/conv1/kernel", "batch_stats/stem/norm/mean".
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn.errors import UsageError
from jaxcnn.weights import layout
from jaxcnn.weights._stored import Stored
from jaxcnn.weights.names import (
    COUNTER,
    FLATTENED_CHANNELS,
    HEADS,
    OLD_NAMES,
    TIMM,
    TORCHVISION,
    Names,
    torchvision_names,
)

Variables = dict[str, Any]
IMAGENET = (224, 224, 3)


@dataclass(frozen=True)
class Row:
    """Report on the conversion of one array.

    Attributes:
      source: name in the source, or "" if the array is newly initialized.
      target: name in the target.
      source_shape: shape in the source.
      shape: shape in the target.
      change: description of the conversion, such as "transposed".
    """

    source: str
    target: str
    source_shape: tuple[int, ...]
    shape: tuple[int, ...]
    change: str


@dataclass(frozen=True)
class Conversion:
    """Variables of a model from a file, and a report on each array.

    Attributes:
      variables: `{"params": ..., "batch_stats": ...}` with NumPy arrays.
      rows: a row for each array.
      unused: names of arrays in the file that the model does not need.
      num_classes: number of logits of the model.
      image_shape: `(H, W, C)` of the images that the model was built for.
      classes_in_file: number of classes of the classifier in the file, or None if the file has no classifier.
    """

    variables: Variables
    rows: list[Row]
    unused: list[str]
    num_classes: int
    image_shape: tuple[int, ...]
    classes_in_file: int | None = None


@dataclass(frozen=True)
class _Location:
    """Location of one of our arrays in a file.

    Attributes:
      name: name in the file.
      flattened_channels: see `jaxcnn.weights.layout`.
      same_layout: whether the file uses our memory layout rather than that of torch.
    """

    name: str
    flattened_channels: int | None
    same_layout: bool


def template(model: nn.Module, image_shape: tuple[int, ...], *, train: bool = True) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of the variables of a model by our names, without computing anything.

    Training mode may include modules that evaluation does not use (auxiliary classifiers).
    """
    keys = {name: jax.random.key(0) for name in ("params", "dropout")}
    variables: Any = jax.eval_shape(lambda: model.init(keys, jnp.zeros((1, *image_shape)), train=train))
    return _flat(variables)


def from_file(
    model_name: str,
    build: Callable[[int | None], nn.Module],
    stored: Mapping[str, Stored],
    *,
    image_shape: tuple[int, ...] = IMAGENET,
    num_classes: int | None = None,
    drop_head: bool | None = False,
    seed: int = 0,
) -> Conversion:
    """Convert arrays with our names, torchvision's or timm's to the variables of a model.

    Args:
      model_name: one of `jaxcnn.list_models()`.
      build: function that returns the model for a number of classes, or for the default number if given None.
      stored: arrays by name.
      image_shape: `(H, W, C)` of the images, which may determine the size of the first dense layer.
      num_classes: number of logits. Default: the number of classes in the file.
      drop_head: whether to replace the classifiers in the file by newly initialized ones. None: only if they do not
        have `num_classes` classes.
      seed: seed of newly initialized classifiers.

    Raises:
      UsageError: arrays are missing, unexpected or of the wrong shape or dtype. The message lists them.
    """
    model = build(num_classes)
    shapes = template(model, image_shape)
    stored = _normalize_names(stored)
    locations = _locate(model_name, model, shapes, stored)
    classes_in_file = _classes_in_file(locations, stored)
    if drop_head is None:
        drop_head = "params/head/bias" in locations and classes_in_file != num_classes
    if not drop_head:
        if num_classes is None and classes_in_file not in (None, shapes["params/head/bias"].shape[0]):
            model = build(classes_in_file)
            shapes = template(model, image_shape)
        elif num_classes is not None and classes_in_file not in (None, num_classes):
            raise UsageError(
                f"the classifier in the file has {classes_in_file} classes, not num_classes={num_classes}. "
                "Replace it by a new one with drop_head (--drop-head)."
            )
    wanted = _without_absent_auxiliaries(shapes, locations, stored)
    kept = [name for name in wanted if not (drop_head and _module(name) in HEADS)]
    unused = _check(model_name, {name: shapes[name] for name in kept}, locations, stored, set(locations) - set(kept))

    rows, arrays = [], {}
    for name in kept:
        location, source, ours = locations[name], stored[locations[name].name], shapes[name]
        array, change = source.read(), "unchanged"
        if not location.same_layout:
            array = layout.from_torch(array, ours.shape, location.flattened_channels)
            change = layout.change(ours.shape, location.flattened_channels)
        arrays[name] = np.ascontiguousarray(array, ours.dtype)
        if source.dtype != ours.dtype:
            change += f", {source.dtype} to {ours.dtype}"
        rows.append(Row(location.name, name, source.shape, ours.shape, change))
    if drop_head:
        new_heads = _initialize_heads(model, image_shape, seed)
        for name in wanted:
            if name not in arrays:
                arrays[name] = new_heads[name]
                rows.append(Row("", name, (), shapes[name].shape, f"initialized with seed {seed}"))
    variables = unflatten_dict({name: arrays[name] for name in wanted}, sep="/")
    logits = next((shapes[name].shape[-1] for name in wanted if _module(name) == "head"), 0)
    return Conversion({"params": {}, **variables}, rows, unused, logits, image_shape, classes_in_file)


def to_ours(variables: Any) -> dict[str, np.ndarray]:
    """Return the variables of a model as NumPy arrays by our names."""
    return {name: np.asarray(array) for name, array in _flat(variables).items()}


def as_stored(variables: Any) -> dict[str, Stored]:
    """Return the variables of a model by our names, in the form of arrays in a file."""
    arrays = to_ours(variables)
    return {name: Stored(array.shape, array.dtype, lambda array=array: array) for name, array in arrays.items()}


def to_torchvision(
    model_name: str, variables: Any, model: nn.Module | None = None
) -> tuple[dict[str, np.ndarray], list[Row]]:
    """Convert the variables of a model to torchvision's `state_dict`.

    This is the exact inverse of `from_file`. The counters `num_batches_tracked`, which jaxcnn does not have, are 0.

    Args:
      model_name: one of `TORCHVISION`.
      variables: `{"params": ..., "batch_stats": ...}`.
      model: the model, if its fields differ from those of `create_model(model_name)`.

    Returns:
      The state dict, and a row for each array.

    Raises:
      UsageError: the model or one of its modules has no counterpart in torchvision.
    """
    names = torchvision_names(model_name, model)
    state, rows = {}, []
    for name, array in to_ours(variables).items():
        if _module(name) not in names:
            raise UsageError(
                f"module of {model_name} has no counterpart in torchvision: {_module(name)}. Save it with to='ours'."
            )
        channels = FLATTENED_CHANNELS.get(model_name, {}).get(_module(name))
        theirs = _torch_name(name, names)
        state[theirs] = layout.to_torch(array, channels)
        rows.append(Row(name, theirs, array.shape, state[theirs].shape, layout.change(array.shape, channels)))
        if name.endswith("/var"):
            state[theirs.replace("running_var", COUNTER)] = np.zeros((), np.int64)
    return state, rows


def _flat(variables: Any) -> dict[str, Any]:
    """Return the parameters and running statistics by our names."""
    collections = {name: variables[name] for name in ("params", "batch_stats") if variables.get(name)}
    return flatten_dict(collections, sep="/")  # type: ignore[return-value]


def _module(name: str) -> str:
    """Return the path of the module that the array `name` belongs to."""
    return name.partition("/")[2].rpartition("/")[0]


def _torch_name(name: str, names: Names) -> str:
    """Return the name in torch of the array `name`."""
    field = name.rpartition("/")[2]
    return f"{names[_module(name)]}.{layout.FIELDS.get(field, field)}"


def _normalize_names(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Remove the prefix "module." of DataParallel, and replace names of old versions of torch."""
    prefix = "module." if all(name.startswith("module.") for name in stored) else ""
    old, new = OLD_NAMES
    return {old.sub(new, name.removeprefix(prefix)): array for name, array in stored.items()}


def _locate(
    model_name: str, model: nn.Module, ours: Iterable[str], stored: Mapping[str, Stored]
) -> dict[str, _Location]:
    """Return the location of each array, under the naming scheme that matches the most names in the file."""
    candidates = [{name: _Location(name, None, True) for name in ours}]
    channels = FLATTENED_CHANNELS.get(model_name, {})
    for library in (TORCHVISION, TIMM):
        if model_name in library:
            names = library[model_name](model)
            candidates.append(
                {
                    name: _Location(_torch_name(name, names), channels.get(_module(name)), False)
                    for name in ours
                    if _module(name) in names
                }
            )

    def matches(locations: dict[str, _Location]) -> int:
        return sum(location.name in stored for location in locations.values())

    best = max(candidates, key=matches)
    if matches(best) == 0:
        example = next(iter(stored), "no array")
        schemes = "jaxcnn, torchvision, timm" if model_name in TORCHVISION else "jaxcnn"
        raise UsageError(
            f"the array names in the file do not match {model_name} (names of {schemes}): {example[:60]!r}. "
            "Check the model name and the file."
        )
    return best


def _classes_in_file(locations: Mapping[str, _Location], stored: Mapping[str, Stored]) -> int | None:
    """Return the number of classes of the classifier in the file, or None if it has no classifier."""
    location = locations.get("params/head/bias")
    if location is None or location.name not in stored or len(stored[location.name].shape) != 1:
        return None
    return stored[location.name].shape[0] or None


def _without_absent_auxiliaries(
    shapes: Mapping[str, Any], locations: Mapping[str, _Location], stored: Mapping[str, Stored]
) -> list[str]:
    """Return the names in `shapes` without auxiliary classifiers that the file lacks, since only training uses them."""
    in_file = {_module(name).partition("/")[0] for name, location in locations.items() if location.name in stored}
    absent = {"aux1", "aux2"} - in_file
    return [name for name in shapes if _module(name).partition("/")[0] not in absent]


def _check(
    model_name: str,
    shapes: Mapping[str, Any],
    locations: Mapping[str, _Location],
    stored: Mapping[str, Stored],
    dropped: set[str],
) -> list[str]:
    """Return the names in the file that the model does not need.

    Args:
      model_name: name of the model, for the error.
      shapes: shapes and dtypes of the arrays that the model takes from the file.
      locations: location of each array in the file.
      stored: arrays in the file.
      dropped: our names of arrays that may be in the file but are not used.

    Raises:
      UsageError: arrays are missing, unexpected, or of the wrong shape or dtype.
    """
    missing, mismatched = [], []
    for name, ours in shapes.items():
        location = locations.get(name)
        if location is None or location.name not in stored:
            missing.append(location.name if location else name)
            continue
        theirs = stored[location.name]
        if not np.issubdtype(theirs.dtype, np.floating) and theirs.dtype.name != "bfloat16":
            mismatched.append(f"{location.name} of {theirs.dtype}, not float")
        elif location.same_layout and theirs.shape != ours.shape:
            mismatched.append(f"{location.name} {list(theirs.shape)}, not {list(ours.shape)}")
        elif not location.same_layout and not layout.fits(theirs.shape, ours.shape, location.flattened_channels):
            mismatched.append(f"{location.name} {list(theirs.shape)}, not {list(layout.torch_shape(ours.shape))}")
    used = {locations[name].name for name in shapes if name in locations}
    dropped_in_file = {locations[name].name for name in dropped}
    unused = [name for name in stored if name not in used]
    unexpected = [name for name in unused if name not in dropped_in_file and not name.endswith(COUNTER)]
    problems = {"missing": missing, "unexpected": unexpected, "of the wrong shape or dtype": mismatched}
    if any(problems.values()):
        details = "; ".join(f"{len(names)} {kind} ({_abbreviate(names)})" for kind, names in problems.items() if names)
        raise UsageError(f"the arrays in the file do not fit {model_name}: {details}. Check the model and its options.")
    return unused


def _abbreviate(names: list[str], limit: int = 8) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(name[:80] for name in names[:limit]) + rest


def _initialize_heads(model: nn.Module, image_shape: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    """Return newly initialized classifiers by our names."""
    keys = {name: jax.random.key(seed) for name in ("params", "dropout")}

    @jax.jit  # XLA removes the initialization of all other layers
    def initialize() -> dict[str, jax.Array]:
        variables = model.init(keys, jnp.zeros((1, *image_shape)), train=True)
        return {name: array for name, array in _flat(variables).items() if _module(name) in HEADS}

    return {name: np.asarray(array) for name, array in initialize().items()}
