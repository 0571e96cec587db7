"""Convert between named arrays in a file and the variables of a model.

"Our names" are the paths of variables in jaxcnn: "params/stage1_block1/conv1/kernel", "batch_stats/stem/norm/mean".

>>> from jaxcnn.models import create_model
>>> shapes = template(create_model("lenet5"), (28, 28, 1))
>>> stored = {name: Stored(x.shape, x.dtype, lambda x=x: np.zeros(x.shape)) for name, x in shapes.items()}
>>> build = lambda classes: create_model("lenet5", classes)
>>> conversion: Conversion = from_file("lenet5", build, stored, image_shape=(28, 28, 1))
>>> row: Row = conversion.rows[0]
>>> conversion.num_classes, row.target, row.change
(10, 'params/C1/bias', 'unchanged')
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.weights import layout
from jaxcnn.weights._fit import Channels, check_arrays, check_finite, kernels_to_sum
from jaxcnn.weights._locations import Location, best_scheme, is_named, modern_names, module_of, schemes, torch_name
from jaxcnn.weights._parts import find_part
from jaxcnn.weights._published import PUBLISHED
from jaxcnn.weights._stored import Stored
from jaxcnn.weights.names import COUNTER, FLATTENED_CHANNELS, HEADS, Names, timm_names, torchvision_names
from jaxcnn.weights.naming.timm import ADDED_TO_VARIANCE, DENSE_AS_CONVOLUTION
from jaxcnn.weights.preprocessing import Preprocessing

Variables = dict[str, Any]
IMAGENET = (224, 224, 3)


@dataclass(frozen=True)
class Row:
    """Report on the conversion of one array.

    Attributes:
      source: name of the array before the conversion, or "" if the array is newly initialized.
      target: name of the array after the conversion.
      source_shape: shape of the array before the conversion.
      shape: shape of the array after the conversion.
      change: how the conversion changed the array, such as "transposed".
    """

    source: str
    target: str
    source_shape: tuple[int, ...]
    shape: tuple[int, ...]
    change: str


@dataclass(frozen=True)
class Conversion:
    """Variables of a model from a file, and a report on the conversion of each array.

    Attributes:
      variables: `{"params": ..., "batch_stats": ...}` with NumPy arrays.
      rows: one `Row` for each array of the model.
      unused: names of arrays in the file that the model does not need.
      num_classes: number of logits of the model.
      image_shape: shape `(H, W, C)` of the images for which the model was built.
      classes_in_file: number of classes of the classifier in the file, or None if the file has no classifier.
      preprocessing: preprocessing of the images with which the weights were trained, or None if it is not known.
      summed_channels: number of input channels over which the first kernel was summed, or None if it was not summed.
      part: path of the part of the file that was converted, such as "state_dict.module"; "" for the whole file.
      other_parts: paths of the parts of the file that fit the model but were not converted, such as a moving average.
    """

    variables: Variables
    rows: list[Row]
    unused: list[str]
    num_classes: int
    image_shape: tuple[int, ...]
    classes_in_file: int | None = None
    preprocessing: Preprocessing | None = None
    summed_channels: int | None = None
    part: str = ""
    other_parts: tuple[str, ...] = ()


def template(model: nn.Module, image_shape: tuple[int, ...], *, train: bool = True) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of a model's variables by their names in jaxcnn, without computing anything.

    With `train=True`, the result may include modules that only training uses, such as auxiliary classifiers.
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
    channels: Channels = "exact",
    preprocessing: Preprocessing | None = None,
    part: str | None = None,
) -> Conversion:
    """Convert arrays to the variables of a model. The array names may be those of jaxcnn, torchvision or timm.

    Args:
      model_name: name of the model, one of `jaxcnn.list_models()`.
      build: function that returns the model for a number of classes, or for the default number if its argument is None.
      stored: arrays of the file, by their names in the file.
      image_shape: shape `(H, W, C)` of the images, which may determine the size of the first dense layer.
      num_classes: number of logits. Default: the number of classes in the file.
      drop_head: whether to replace the classifiers in the file by newly initialized classifiers. `drop_head=None`
        replaces only classifiers whose number of classes is not `num_classes`.
      seed: random seed to initialize new classifiers.
      channels: whether a model for gray images accepts color weights. "exact" refuses color weights. "sum" accepts them
        and sums the first kernel over its input channels. The first feature maps are then those of a color image whose
        channels all equal the gray image.
      preprocessing: preprocessing that the file records. Default: the preprocessing of torchvision's published weights
        of the model, if the file has array names of torchvision or timm.
      part: path of the part of the file to convert, such as "model_ema". Default: the part that fits the model best.

    Raises:
      UsageError: if several parts of the file fit equally well, or arrays are missing, unexpected, of the wrong shape
        or dtype, or not finite. The message lists these parts or arrays.
    """
    if channels not in get_args(Channels):
        raise unknown_name("treatment of channels", channels, get_args(Channels))
    model = build(num_classes)
    shapes = template(model, image_shape)
    named = schemes(model_name, model, shapes)
    names = [{location.name for location in scheme.values()} for scheme in named]
    found = find_part(stored, names, part)
    stored = modern_names(found.arrays)
    locations = best_scheme(model_name, named, stored)
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
                "Replace the classifier by a new one with drop_head (--drop-head)."
            )
    wanted = _without_absent_auxiliaries(shapes, locations, stored)
    kept = [name for name in wanted if not (drop_head and module_of(name) in HEADS)]
    summed = kernels_to_sum(kept, shapes, locations, stored, channels)
    unused = check_arrays(
        model_name,
        {name: shapes[name] for name in kept},
        locations,
        stored,
        dropped=set(locations) - set(kept),
        summed=set(summed),
    )

    rows, arrays = [], {}
    for name in kept:
        location, source, ours = locations[name], stored[locations[name].name], shapes[name]
        array, change = source.read(), "unchanged"
        if name in summed:
            array = array.sum(layout.input_axis(location.same_layout), dtype=np.float64, keepdims=True)
        if not location.same_layout:
            array = layout.from_torch(array, ours.shape, location.flattened_channels)
            change = layout.change(ours.shape, location.flattened_channels)
        if location.added:
            array = array.astype(np.float64) + location.added
            change += f", {location.added:+g}"
        if name in summed:
            change += f", summed over {summed[name]} input channels"
        with np.errstate(over="ignore"):  # a value that becomes infinite is reported below
            arrays[name] = np.ascontiguousarray(array, ours.dtype)
        if source.dtype != ours.dtype:
            change += f", {source.dtype} to {ours.dtype}"
        rows.append(Row(location.name, name, source.shape, ours.shape, change))
    check_finite(arrays, locations)
    if drop_head:
        new_heads = _initialize_heads(model, image_shape, seed)
        for name in wanted:
            if name not in arrays:
                arrays[name] = new_heads[name]
                rows.append(Row("", name, (), shapes[name].shape, f"initialized with seed {seed}"))
    variables = unflatten_dict({name: arrays[name] for name in wanted}, sep="/")
    logits = next((shapes[name].shape[-1] for name in wanted if module_of(name) == "head"), 0)
    if preprocessing is None and not all(location.same_layout for location in locations.values()):
        preprocessing = PUBLISHED.get(model_name)
    if preprocessing is not None and summed:
        preprocessing = preprocessing.for_one_channel()
    return Conversion(
        variables={"params": {}, **variables},
        rows=rows,
        unused=unused,
        num_classes=logits,
        image_shape=image_shape,
        classes_in_file=classes_in_file,
        preprocessing=preprocessing,
        summed_channels=next(iter(summed.values()), None),
        part=found.name,
        other_parts=found.others,
    )


def to_ours(variables: Any) -> dict[str, np.ndarray]:
    """Return the variables of a model as NumPy arrays, by their names in jaxcnn ("params/stem/kernel").

    Convolution kernels have the shape `[H, W, C_in, C_out]`, and dense kernels have the shape `[C_in, C_out]`.

    >>> to_ours({"params": {"stem": {"kernel": np.zeros((3, 3, 1, 8))}}})["params/stem/kernel"].shape
    (3, 3, 1, 8)
    """
    return {name: np.asarray(array) for name, array in _flat(variables).items()}


def as_stored(variables: Any) -> dict[str, Stored]:
    """Return the variables of a model as `Stored` arrays, as if they were read from a file with names of jaxcnn.

    >>> as_stored({"params": {"stem": {"kernel": np.zeros((3, 3, 1, 8))}}})["params/stem/kernel"].shape
    (3, 3, 1, 8)
    """
    arrays = to_ours(variables)
    return {name: Stored(array.shape, array.dtype, lambda array=array: array) for name, array in arrays.items()}


def to_torchvision(
    model_name: str, variables: Any, model: nn.Module | None = None
) -> tuple[dict[str, np.ndarray], list[Row]]:
    """Convert the variables of a model to a `state_dict` of torchvision.

    Convolution kernels become `[C_out, C_in, H, W]`, and dense kernels become `[C_out, C_in]`.

    `to_torchvision` is the exact inverse of `from_file`. The counters `num_batches_tracked`, which jaxcnn does not
    have, are 0.

    Args:
      model_name: name of a model in `TORCHVISION`.
      variables: variables of the model, `{"params": ..., "batch_stats": ...}`.
      model: the model itself; required only if its fields differ from those of `create_model(model_name)`.

    Returns:
      The state dict, and a `Row` for each array.

    Raises:
      UsageError: if the model or one of its modules has no counterpart in torchvision.

    >>> from jaxcnn.models import create_model
    >>> shapes = template(create_model("squeezenet1_1"), IMAGENET)
    >>> variables = unflatten_dict({name: np.zeros(x.shape, x.dtype) for name, x in shapes.items()}, sep="/")
    >>> state_dict, rows = to_torchvision("squeezenet1_1", variables)
    >>> state_dict["features.0.weight"].shape, rows[0].change
    ((64, 3, 3, 3), 'unchanged')
    """
    return _to_torch(model_name, variables, torchvision_names(model_name, model), "torchvision", _torch_array)


def to_timm(model_name: str, variables: Any, model: nn.Module | None = None) -> tuple[dict[str, np.ndarray], list[Row]]:
    """Convert the variables of a model to a `state_dict` of timm, as `to_torchvision` does for torchvision.

    Convolution kernels become `[C_out, C_in, H, W]`, and dense kernels become `[C_out, C_in]`.

    For models in `OTHER_EPSILON`, the epsilon of batch normalization differs between timm and jaxcnn. The running
    variances are changed to compensate for this difference, so that evaluation in timm returns the same results. After
    a conversion to timm and back, these variances are equal up to rounding, and all other arrays are exactly equal.

    Raises:
      UsageError: if the model or a module has no counterpart in timm, or jaxcnn does not know the names in timm.

    >>> from jaxcnn.models import create_model
    >>> shapes = template(create_model("resnet18"), IMAGENET)
    >>> variables = unflatten_dict({name: np.zeros(x.shape, x.dtype) for name, x in shapes.items()}, sep="/")
    >>> state_dict, rows = to_timm("resnet18", variables)
    >>> state_dict["conv1.weight"].shape
    (64, 3, 7, 7)
    """

    added = ADDED_TO_VARIANCE.get(model_name, 0.0)

    def convert(name: str, array: np.ndarray, channels: int | None) -> np.ndarray:
        if name.endswith("/gamma"):
            return array
        if name.endswith("/var") and added:
            return (array.astype(np.float64) - added).astype(array.dtype)
        theirs = _torch_array(name, array, channels)
        is_convolution = name.endswith("/kernel") and module_of(name) in DENSE_AS_CONVOLUTION.get(model_name, ())
        return layout.as_convolution(theirs, channels or theirs.shape[1]) if is_convolution else theirs

    return _to_torch(model_name, variables, timm_names(model_name, model), "timm", convert)


def _torch_array(name: str, array: np.ndarray, channels: int | None) -> np.ndarray:
    return layout.to_torch(array, channels, name.rpartition("/")[2])


def _to_torch(
    model_name: str,
    variables: Any,
    names: Names,
    library: str,
    convert: Callable[[str, np.ndarray, int | None], np.ndarray],
) -> tuple[dict[str, np.ndarray], list[Row]]:
    """Return the variables as a state dict with the torch names in `names`, and a `Row` for each array."""
    state, rows = {}, []
    for name, array in to_ours(variables).items():
        if not is_named(name, names):
            raise UsageError(
                f"module of {model_name} has no counterpart in {library}: {module_of(name)}. "
                "Save the weights with to='ours'."
            )
        channels = FLATTENED_CHANNELS.get(model_name, {}).get(module_of(name))
        theirs = torch_name(name, names)
        state[theirs] = convert(name, array, channels)
        rows.append(Row(name, theirs, array.shape, state[theirs].shape, layout.change(array.shape, channels)))
        if name.endswith("/var"):
            state[theirs.replace("running_var", COUNTER)] = np.zeros((), np.int64)
    return state, rows


def _flat(variables: Any) -> dict[str, Any]:
    """Return the parameters and running statistics by their names in jaxcnn."""
    collections = {name: variables[name] for name in ("params", "batch_stats") if variables.get(name)}
    return flatten_dict(collections, sep="/")  # type: ignore[return-value]


def _classes_in_file(locations: Mapping[str, Location], stored: Mapping[str, Stored]) -> int | None:
    """Return the number of classes of the classifier in the file, or None if it has no classifier."""
    location = locations.get("params/head/bias")
    if location is None or location.name not in stored or len(stored[location.name].shape) != 1:
        return None
    return stored[location.name].shape[0] or None


def _without_absent_auxiliaries(
    shapes: Mapping[str, Any], locations: Mapping[str, Location], stored: Mapping[str, Stored]
) -> list[str]:
    """Return the names in `shapes`, except the names of auxiliary classifiers that the file lacks.

    Only training needs auxiliary classifiers.
    """
    in_file = {module_of(name).partition("/")[0] for name, location in locations.items() if location.name in stored}
    absent = {"aux1", "aux2"} - in_file
    return [name for name in shapes if module_of(name).partition("/")[0] not in absent]


def _initialize_heads(model: nn.Module, image_shape: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    """Return newly initialized classifiers by their names in jaxcnn."""
    keys = {name: jax.random.key(seed) for name in ("params", "dropout")}

    @jax.jit  # XLA removes the initialization of all other layers
    def initialize() -> dict[str, jax.Array]:
        variables = model.init(keys, jnp.zeros((1, *image_shape)), train=True)
        return {name: array for name, array in _flat(variables).items() if module_of(name) in HEADS}

    return {name: np.asarray(array) for name, array in initialize().items()}
