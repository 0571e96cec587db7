"""A contact sheet: what the images of a data set look like, and what augmentation makes of them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxcnn.data.augment import compose
from jaxcnn.data.datasets import Dataset

TILE = 96  # pixels of an image on the sheet
GAP = 6
LINE = 16  # height of a line of text
INK, PAPER = (32, 32, 32), (255, 255, 255)


def contact_sheet(
    dataset: Dataset, augment: Sequence[Any] = (), *, classes: int = 10, columns: int = 8, seed: int = 0
) -> Image.Image:
    """Images of the first `classes` classes, a row of raw ones for each and under it the same ones augmented.

    Without augmentations there are no second rows. A class's row begins with its name.
    """
    chosen, shown = _choose(dataset, min(classes, dataset.num_classes), columns, seed)
    margin = max([_text_width(dataset.class_names[label]) for label in chosen], default=0) + 2 * GAP
    rows = 2 if augment else 1
    block = rows * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (margin + columns * (TILE + GAP) + GAP, LINE + 2 * GAP + block * len(chosen)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    title = f"{dataset.name}, training images" + (f"; below each: {', '.join(map(str, augment))}" if augment else "")
    draw.text((GAP, GAP), title, fill=INK, font=font)
    change = jax.jit(compose(augment))
    for row, (label, images) in enumerate(zip(chosen, shown, strict=True)):
        top = LINE + 2 * GAP + row * block
        draw.text((GAP, top + TILE // 2 - LINE // 2), dataset.class_names[label], fill=INK, font=font)
        for column, image in enumerate(images):
            left = margin + column * (TILE + GAP)
            sheet.paste(_tile(image), (left, top))
            if augment:
                key = jax.random.fold_in(jax.random.key(seed), row * columns + column)
                sheet.paste(_tile(np.asarray(change(key, jnp.asarray(image)))), (left, top + TILE + GAP))
    return sheet


def _choose(dataset: Dataset, classes: int, columns: int, seed: int) -> tuple[list[int], list[list[np.ndarray]]]:
    """Of each of the first classes its number and some of its training images, taken at random."""
    found: dict[int, list[np.ndarray]] = {label: [] for label in range(classes)}
    order = np.random.default_rng(seed).permutation(dataset.examples["train"])
    size = (TILE, TILE) if dataset.sizes_differ else None
    for start in range(0, len(order), 256):
        for example in dataset.read_encoded("train", order[start : start + 256].tolist()):
            wanted = found.get(example.label)
            if wanted is not None and len(wanted) < columns:
                wanted.append(dataset.decode(example, size))
        if all(len(images) == columns for images in found.values()):
            break
    return list(found), list(found.values())


def _tile(image: np.ndarray) -> Image.Image:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    smaller = max(picture.size) > TILE
    return picture.resize((TILE, TILE), Image.Resampling.BILINEAR if smaller else Image.Resampling.NEAREST)


def _text_width(text: str) -> int:
    return int(ImageFont.load_default(size=12).getlength(text)) + 1
