"""Draw a contact sheet: training images of a dataset, and the same images augmented."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxcnn.data.augment import compose
from jaxcnn.data.dataset import Dataset
from jaxcnn.errors import UsageError

# Sizes in pixels.
TILE = 96  # side of an image
GAP = 6
LINE = 16  # height of a line of text
TEXT_COLOR, BACKGROUND_COLOR = (32, 32, 32), (255, 255, 255)


def contact_sheet(
    dataset: Dataset, augment: Sequence[Any] = (), *, classes: int = 10, columns: int = 8, seed: int = 0
) -> Image.Image:
    """Draw random training images of the first classes, one row for each class.

    Args:
      dataset: dataset to draw from.
      augment: augmentations, see `jaxcnn.data.compose`. If augmentations are given, a second row shows the same images
        augmented.
      classes: maximum number of classes.
      columns: maximum number of images of each class.
      seed: seed of the choice of images and of the augmentations.
    """
    images_by_class = _choose_images(dataset, min(classes, dataset.num_classes), columns, seed)
    margin = max([_text_width(dataset.class_names[label]) for label in images_by_class], default=0) + 2 * GAP
    rows = 2 if augment else 1
    block = rows * (TILE + GAP) + GAP
    width, height = margin + columns * (TILE + GAP) + GAP, LINE + 2 * GAP + block * len(images_by_class)
    sheet = Image.new("RGB", (width, height), BACKGROUND_COLOR)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    title = f"{dataset.name}, training images"
    if augment:
        title += f"; below each: {', '.join(map(str, augment))}"
    draw.text((GAP, GAP), title, fill=TEXT_COLOR, font=font)
    apply_augment = jax.jit(compose(augment))
    for row, (label, images) in enumerate(images_by_class.items()):
        top = LINE + 2 * GAP + row * block
        draw.text((GAP, top + TILE // 2 - LINE // 2), dataset.class_names[label], fill=TEXT_COLOR, font=font)
        for column, image in enumerate(images):
            left = margin + column * (TILE + GAP)
            sheet.paste(_tile(image), (left, top))
            if augment:
                key = jax.random.fold_in(jax.random.key(seed), row * columns + column)
                augmented = np.asarray(apply_augment(key, jnp.asarray(image)))
                sheet.paste(_tile(augmented), (left, top + TILE + GAP))
    return sheet


def _choose_images(dataset: Dataset, classes: int, columns: int, seed: int) -> dict[int, list[np.ndarray]]:
    """Return up to `columns` random training images of each of the first `classes` labels."""
    found: dict[int, list[np.ndarray]] = {label: [] for label in range(classes)}
    order = np.random.default_rng(seed).permutation(dataset.examples["train"])
    geometry = dataset.geometry((TILE, TILE)) if dataset.sizes_differ else dataset.geometry()
    full = [None] * columns
    for start in range(0, len(order), 256):
        indices = order[start : start + 256].tolist()
        labels = dataset.labels_at("train", indices)
        if labels is None or labels.ndim != 1:
            raise UsageError(
                f"dataset {dataset.name!r} does not have one class for each image. Choose a dataset with class labels."
            )
        wanted = [
            index
            for index, label in zip(indices, labels.tolist(), strict=True)
            if len(found.get(label, full)) < columns
        ]
        batch = dataset.load("train", wanted, geometry) if wanted else {"image": (), "label": ()}
        for image, label in zip(batch["image"], batch["label"], strict=True):
            if len(found[int(label)]) < columns:
                found[int(label)].append(image)
        if all(len(images) == columns for images in found.values()):
            break
    return found


def _tile(image: np.ndarray) -> Image.Image:
    tile = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    shrinks = max(tile.size) > TILE
    # Nearest-neighbor interpolation keeps the pixels of enlarged images as sharp squares.
    return tile.resize((TILE, TILE), Image.Resampling.BILINEAR if shrinks else Image.Resampling.NEAREST)


def _text_width(text: str) -> int:
    return int(ImageFont.load_default(size=12).getlength(text)) + 1
