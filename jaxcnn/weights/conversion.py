"""From arrays by their names in a file to a model's variables, and back.

Our own names are the paths in the variables: "params/stage1_block1/conv1/kernel", "batch_stats/stem/norm/mean".
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
    """What became of one array.

    Attributes:
      source, target: its name where it comes from and where it goes to.
      source_shape, shape: its shape there and here.
      change: what was done to it.
    """

    source: str
    target: str
    source_shape: tuple[int, ...]
    shape: tuple[int, ...]
    change: str


@dataclass(frozen=True)
class Conversion:
    """A model's variables as they come from a file, and how each of them got there.

    Attributes:
      variables: `{"params": ..., "batch_stats": ...}` of NumPy arrays.
      rows: a row for each array.
      unused: names in the file that the model has no place for, and that may be left out.
      num_classes: how many logits the model has with them.
      image_shape: `(H, W, C)` of the images that they were taken to be for.
      classes_in_file: how many classes the file's classifier has; None if it has none.
    """

    variables: Variables
    rows: list[Row]
    unused: list[str]
    num_classes: int
    image_shape: tuple[int, ...]
    classes_in_file: int | None = None


@dataclass(frozen=True)
class _Place:
    """Where an array of ours is found in a file."""

    name: str
    flattened_channels: int | None
    same_layout: bool


def template(model: nn.Module, image_shape: tuple[int, ...], *, train: bool = True) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a model's variables by our names; nothing is computed.

    In training mode there may be parts that evaluation does not have (auxiliary classifiers).
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
    """The variables of a model, from arrays under our names, torchvision's or timm's.

    Args:
      model_name: one of `jaxcnn.list_models()`.
      build: makes the model, for a number of classes.
      stored: the arrays.
      image_shape: `(H, W, C)` of the images, on which the first fully connected layer's size may depend.
      num_classes: number of logits; as many as in the file, if not given.
      drop_head: leaves the classifiers in the file out and puts fresh ones in their place; None does so if they are
        not for `num_classes`.
      seed: of these.

    Raises:
      UsageError: arrays that are missing, left over or of another shape, all of them listed.
    """
    model = build(num_classes)
    shapes = template(model, image_shape)
    stored = _tidy_names(stored)
    places = _find_places(model_name, model, shapes, stored)
    in_file = _classes_in_file(places, stored)
    if drop_head is None:
        drop_head = "params/head/bias" in places and in_file != num_classes
    if not drop_head:
        if num_classes is None and in_file not in (None, shapes["params/head/bias"].shape[0]):
            model = build(in_file)
            shapes = template(model, image_shape)
        elif num_classes is not None and in_file not in (None, num_classes):
            raise UsageError(
                f"the file has {in_file} classes and {num_classes} are asked for; "
                "drop_head (--drop-head) leaves its classifier out and puts a fresh one there"
            )
    wanted = _without_absent_auxiliaries(shapes, places, stored)
    kept = [name for name in wanted if not (drop_head and _module(name) in HEADS)]
    unused = _check(model_name, {name: shapes[name] for name in kept}, places, stored, set(places) - set(kept))

    rows, arrays = [], {}
    for name in kept:
        place, source = places[name], stored[places[name].name]
        array = source.read()
        if not place.same_layout:
            array = layout.from_torch(array, shapes[name].shape, place.flattened_channels)
        arrays[name] = np.ascontiguousarray(array, shapes[name].dtype)
        change = "as it is" if place.same_layout else layout.change(shapes[name].shape, place.flattened_channels)
        if source.dtype != shapes[name].dtype:
            change += f", {source.dtype} to {shapes[name].dtype}"
        rows.append(Row(place.name, name, source.shape, shapes[name].shape, change))
    if drop_head:
        fresh = _fresh_heads(model, image_shape, seed)
        for name in [name for name in wanted if name not in arrays]:
            arrays[name] = fresh[name]
            rows.append(Row("", name, (), shapes[name].shape, f"fresh, from seed {seed}"))
    variables = unflatten_dict({name: arrays[name] for name in wanted}, sep="/")
    head = next((shapes[name].shape[-1] for name in wanted if _module(name) == "head"), 0)
    return Conversion({"params": {}, **variables}, rows, unused, head, image_shape, in_file)


def to_ours(variables: Any) -> dict[str, np.ndarray]:
    """A model's variables by our names."""
    return {name: np.asarray(array) for name, array in _flat(variables).items()}


def as_stored(variables: Any) -> dict[str, Stored]:
    """A model's variables by our names, as if they stood in a file."""
    arrays = to_ours(variables)
    return {name: Stored(array.shape, array.dtype, lambda array=array: array) for name, array in arrays.items()}


def to_torchvision(
    model_name: str, variables: Any, model: nn.Module | None = None
) -> tuple[dict[str, np.ndarray], list[Row]]:
    """A model's variables as torchvision's `state_dict`, and how each of them got there.

    The inverse of reading one, to the last bit. Only the counters of batches, which we do not have, are 0.

    Args:
      model_name: of a model that has a counterpart.
      variables: `{"params": ..., "batch_stats": ...}`.
      model: the model itself, if its fields are not the name's own.

    Raises:
      UsageError: a model without a counterpart, or one that differs from it in its parts.
    """
    names = torchvision_names(model_name, model)
    state, rows = {}, []
    for name, array in to_ours(variables).items():
        if _module(name) not in names:
            raise UsageError(f"{_module(name)} of this {model_name} has no counterpart in torchvision")
        channels = FLATTENED_CHANNELS.get(model_name, {}).get(_module(name))
        theirs = _torch_name(name, names)
        state[theirs] = layout.to_torch(array, channels)
        rows.append(Row(name, theirs, array.shape, state[theirs].shape, layout.change(array.shape, channels)))
        if name.endswith("/var"):
            state[theirs.replace("running_var", COUNTER)] = np.zeros((), np.int64)
    return state, rows


def _flat(variables: Any) -> dict[str, Any]:
    """Parameters and running statistics by our names."""
    collections = {name: variables[name] for name in ("params", "batch_stats") if variables.get(name)}
    return flatten_dict(collections, sep="/")  # type: ignore[return-value]


def _module(name: str) -> str:
    """The path of the module that a parameter or statistic belongs to."""
    return name.partition("/")[2].rpartition("/")[0]


def _torch_name(name: str, names: Names) -> str:
    return f"{names[_module(name)]}.{layout.FIELDS[name.rpartition('/')[2]]}"


def _tidy_names(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Without the prefix that DataParallel puts in front of all names, and with today's in place of old ones."""
    prefix = "module." if all(name.startswith("module.") for name in stored) else ""
    old, new = OLD_NAMES
    return {old.sub(new, name.removeprefix(prefix)): array for name, array in stored.items()}


def _find_places(
    model_name: str, model: nn.Module, ours: Iterable[str], stored: Mapping[str, Stored]
) -> dict[str, _Place]:
    """Where each array is looked for: under the names of which the file has the most."""
    candidates = [{name: _Place(name, None, True) for name in ours}]
    channels = FLATTENED_CHANNELS.get(model_name, {})
    for library in (TORCHVISION, TIMM):
        if model_name in library:
            names = library[model_name](model)
            candidates.append(
                {
                    name: _Place(_torch_name(name, names), channels.get(_module(name)), False)
                    for name in ours
                    if _module(name) in names
                }
            )
    best = max(candidates, key=lambda places: sum(place.name in stored for place in places.values()))
    if not any(place.name in stored for place in best.values()):
        example = next(iter(stored), "nothing")
        known = "ours, torchvision's or timm's" if model_name in TORCHVISION else "ours"
        raise UsageError(f"the file has no array under a name of {model_name} ({known}); it has {example[:60]!r}")
    return best


def _classes_in_file(places: Mapping[str, _Place], stored: Mapping[str, Stored]) -> int | None:
    """How many classes the classifier in the file has."""
    place = places.get("params/head/bias")
    if place is None or place.name not in stored or len(stored[place.name].shape) != 1:
        return None
    return stored[place.name].shape[0] or None


def _without_absent_auxiliaries(
    shapes: Mapping[str, Any], places: Mapping[str, _Place], stored: Mapping[str, Stored]
) -> list[str]:
    """Names of what the model needs; auxiliary classifiers, which only training has, are not in every file."""
    absent = {
        aux
        for aux in ("aux1", "aux2")
        if not any(_module(name).startswith(f"{aux}/") and place.name in stored for name, place in places.items())
    }
    return [name for name in shapes if _module(name).partition("/")[0] not in absent]


def _check(
    model_name: str,
    shapes: Mapping[str, Any],
    places: Mapping[str, _Place],
    stored: Mapping[str, Stored],
    not_kept: set[str],
) -> list[str]:
    """Names in the file that may be left out; raises with all that does not fit."""
    missing, other_shape = [], []
    for name, ours in shapes.items():
        place = places.get(name)
        if place is None or place.name not in stored:
            missing.append(place.name if place else name)
            continue
        theirs = stored[place.name]
        if not np.issubdtype(theirs.dtype, np.floating) and theirs.dtype.name != "bfloat16":
            other_shape.append(f"{place.name} of {theirs.dtype}, not float")
        elif place.same_layout and theirs.shape != ours.shape:
            other_shape.append(f"{place.name} {list(theirs.shape)}, not {list(ours.shape)}")
        elif not place.same_layout and not layout.fits(theirs.shape, ours.shape, place.flattened_channels):
            other_shape.append(f"{place.name} {list(theirs.shape)}, not {list(layout.torch_shape(ours.shape))}")
    used = {places[name].name for name in shapes if name in places}
    dropped = {places[name].name for name in not_kept}
    unused = [name for name in stored if name not in used]
    left_over = [name for name in unused if name not in dropped and not name.endswith(COUNTER)]
    complaints = [
        f"{len(names)} {what} ({_some(names)})"
        for what, names in (("missing", missing), ("left over", left_over), ("of another shape", other_shape))
        if names
    ]
    if complaints:
        raise UsageError(f"the file does not fit {model_name}: {'; '.join(complaints)}")
    return unused


def _some(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:80] for name in names[:most]) + rest


def _fresh_heads(model: nn.Module, image_shape: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    keys = {name: jax.random.key(seed) for name in ("params", "dropout")}

    @jax.jit  # what is not a head is never computed
    def initialize() -> dict[str, jax.Array]:
        variables = model.init(keys, jnp.zeros((1, *image_shape)), train=True)
        return {name: array for name, array in _flat(variables).items() if _module(name) in HEADS}

    return {name: np.asarray(array) for name, array in initialize().items()}
