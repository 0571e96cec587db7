"""Read the elements of the user's source: find the image, the label and other fields, and check the image."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from jaxcnn.data import decode
from jaxcnn.data.decode import Geometry
from jaxcnn.data.sources.pixels import canonical, check_pixels, to_array
from jaxcnn.errors import UsageError, closest

Fields = Mapping[str, str | int]
"""Maps each key of a batch to a field of an element: to its name, or to its position in a tuple."""

CHANNEL_AXES = (1, 3, 4)
"""Numbers of channels by which a torch tensor `[C, H, W]` is recognized, if its last axis has another length."""


class Example(NamedTuple):
    """An example of a source.

    Attributes:
      image: content of an image file, a Pillow image, or pixels, uint8 or float32 `[H, W, C]`.
      label: label as the source returns it, or None.
      others: arrays of the other fields, by their key.
      left_out: names of fields that are not arrays.
    """

    image: bytes | Image.Image | np.ndarray
    label: Any
    others: dict[str, Any]
    left_out: tuple[str, ...] = ()


class Form(NamedTuple):
    """Properties of an image before it is resized: height, width, channels, and whether its pixels are floats."""

    size: tuple[int, int]
    channels: int
    is_float: bool


def read_element(element: Any, fields: Fields | None, what: str, index: int) -> Example:
    """Convert an element of a source to an example.

    Args:
      element: a mapping, a tuple or list `(image, label, ...)`, or an image.
      fields: dict from each key of a batch to the field of the element. Default: all fields that are arrays.
      what: name of the source for error messages, such as "the training source".
      index: position of the element in the source, from 0, for error messages.

    Raises:
      UsageError: if a field is missing, or the image is of an unknown kind.
      Exception: any error that is raised while an image file is read.
    """
    values = _select(element, fields, what)
    image = _read_image(values.pop("image"), what, index)
    label = values.pop("label", None)
    others, left_out = {}, []
    for key, value in values.items():
        try:
            others[key] = _read_tree(value)
        except (TypeError, ValueError):
            if fields is not None:
                raise UsageError(
                    f"field {fields[key]!r} of example {index} of {what} is not an array: {type(value).__name__}. "
                    "Omit this field from `fields`."
                ) from None
            left_out.append(key)
    return Example(image, label, others, tuple(left_out))


def _select(element: Any, fields: Fields | None, what: str) -> dict[str, Any]:
    """Return the fields of an element, as a dict from each key of a batch to the value of its field."""
    found: dict[str | int, Any]
    if isinstance(element, Mapping):
        found = dict(element)
    elif isinstance(element, tuple) and hasattr(element, "_fields"):
        found = {**element._asdict(), **dict(enumerate(element))}  # pyright: ignore[reportAttributeAccessIssue]
    elif isinstance(element, tuple | list):
        found = dict(enumerate(element))
    else:
        found = {0: element}
    if fields is None:
        named = {key: value for key, value in found.items() if isinstance(key, str)}
        if named:
            _require_usual_keys(named, what)
            return named
        usual = ("image", "label", *(f"field{position}" for position in range(2, len(found))))
        return dict(zip(usual, found.values(), strict=False))
    for key, name in fields.items():
        if name not in found:
            near = closest(name, map(str, found))
            hint = f"Did you mean {near!r}?" if near else f"It has {', '.join(map(repr, found))}."
            raise UsageError(f"fields[{key!r}] is not a field of {what}: {name!r}. {hint}")
    return {key: found[name] for key, name in fields.items()}


def _require_usual_keys(named: Mapping[str, Any], what: str) -> None:
    """Raise `UsageError` if a mapping has no field "image", or has a field such as "labels" instead of "label"."""
    image = "image" if "image" in named else closest("image", named)
    label = "label" if "label" in named else closest("label", [name for name in named if name != image])
    if image == "image" and label in ("label", None):
        return
    suggested = {"image": image or next(iter(named)), **({} if label is None else {"label": label})}
    missing = "label" if image == "image" else "image"
    raise UsageError(
        f"examples of {what} have no field {missing!r}. The fields are {', '.join(map(repr, named))}. Name the "
        f"fields, such as fields={suggested}."
    )


def _read_image(value: Any, what: str, index: int) -> bytes | Image.Image | np.ndarray:
    """Return an image as one of the types of `Example.image`."""
    if isinstance(value, Mapping) and {"bytes", "path"} & set(value):  # an undecoded image of Hugging Face
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str | os.PathLike):
        return Path(value).read_bytes()
    if isinstance(value, Image.Image):
        value.load()
        return value
    pixels: np.ndarray
    try:
        pixels = to_array(value)
    except (TypeError, ValueError):
        pixels = np.asarray(None)
    if pixels.dtype.kind not in "biuf" and pixels.dtype.name != "bfloat16":
        raise UsageError(
            f"image {index} of {what} is not an image: {type(value).__name__}. Give an array, a Pillow image, or the "
            "content or the path of an image file."
        )
    is_tensor = callable(getattr(value, "detach", None))
    if is_tensor and pixels.ndim == 3 and pixels.shape[0] in CHANNEL_AXES and pixels.shape[2] not in CHANNEL_AXES:
        pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        raise UsageError(f"image {index} of {what} has the shape {list(pixels.shape)}. Give [H, W, C] or [H, W].")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return check_pixels(pixels[None], f"images of {what}", index)[0]


def _read_tree(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _read_tree(part) for key, part in value.items()}
    return canonical(to_array(value))


def form_of(image: bytes | Image.Image | np.ndarray) -> Form:
    """Return the size, channels and type of an image. The content of an image file is checked for damage.

    Raises:
      ValueError: if the image is damaged.
    """
    if isinstance(image, bytes):
        return Form(decode.check(image), decode.count_channels(decode.open_image(image)), is_float=False)
    if isinstance(image, Image.Image):
        return Form(decode.upright_size(image), decode.count_channels(image), is_float=False)
    height, width, channels = image.shape
    return Form((height, width), channels, is_float=image.dtype != np.uint8)


def pixels_of(
    image: bytes | Image.Image | np.ndarray,
    channels: int,
    geometry: Geometry,
    random_box: decode.RandomBox | None = None,
    random: np.random.Generator | None = None,
) -> np.ndarray:
    """Decode an image as `jaxcnn.data.decode` does: pixels, uint8 or float32 `[H, W, channels]`.

    Raises:
      ValueError: if the image is damaged, or its channels cannot be converted.
    """
    if isinstance(image, bytes):
        return decode.decode(image, channels, geometry, random_box, random)
    if isinstance(image, Image.Image):
        pixels = decode.load_pixels(image, channels, geometry.background)
    else:
        pixels = decode.convert(image, channels, geometry.background)
    return decode.fit(pixels, geometry, random_box, random)


def example_size(example: Example) -> int:
    """Return the approximate number of bytes of memory that an example needs."""
    image = example.image
    if isinstance(image, Image.Image):
        size = image.width * image.height * max(1, len(image.getbands()))
    else:
        size = len(image) if isinstance(image, bytes) else image.nbytes
    return size + sum(leaf.nbytes for leaf in jax.tree.leaves(example.others))


def content_of(example: Example) -> bytes:
    """Return the image, the label and the other arrays of an example as bytes, to compute a hash."""
    image = example.image
    if isinstance(image, Image.Image):
        content = repr((image.mode, image.size)).encode() + image.tobytes()
    else:
        content = image if isinstance(image, bytes) else repr(image.shape).encode() + image.tobytes()
    label = example.label if isinstance(example.label, str | bytes) else to_array(example.label).tolist()
    others = b"".join(leaf.tobytes() for leaf in jax.tree.leaves(example.others))
    return b"\0".join((content, repr(label).encode(), others))
