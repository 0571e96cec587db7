"""Crops of images: the center crop of evaluation, and the random crop of training."""

import math
from typing import Literal, NamedTuple

import numpy as np

Background = Literal["white", "black"]
"""Color behind transparent pixels."""

CROP_FRACTION = 0.875
"""Default size of the center crop, as a fraction of each side of the resized image: 224 / 256."""


class Box(NamedTuple):
    """Part of an image, in pixels; the coordinates may be fractional."""

    left: float
    top: float
    right: float
    bottom: float


class Geometry(NamedTuple):
    """How to prepare an image: resize it, then crop its center. The resize and the crop are computed in one step.

    Attributes:
      size: height and width of the result. If `size` is None, the image keeps its size, and `resize` and
        `crop_fraction` are ignored.
      resize: how to resize the image before the crop. "shorter" scales both sides by the same factor. "stretch" scales
        height and width by different factors, so that the resized image has the aspect ratio of `size`. A number is the
        length of the shorter side after the resize, in pixels. If `resize` is a number, `crop_fraction` is ignored.
      crop_fraction: size of the crop, as a fraction of each side of the resized image. If the fraction is 1, an image
        that already has the size `size` does not change.
      background: color behind transparent pixels.

    >>> Geometry((224, 224), resize=256)  # a center crop of 224x224 pixels from the image with a shorter side of 256
    Geometry(size=(224, 224), resize=256, crop_fraction=1.0, background='white')
    """

    size: tuple[int, int] | None = None
    resize: Literal["shorter", "stretch"] | int = "shorter"
    crop_fraction: float = 1.0
    background: Background = "white"

    def box(self, height: int, width: int) -> Box:
        """Return the part of an image of `height` x `width` pixels that the center crop uses.

        >>> Geometry((224, 224), crop_fraction=0.875).box(256, 256)
        Box(left=16.0, top=16.0, right=240.0, bottom=240.0)
        >>> Geometry((224, 224), resize=256).box(512, 1024)
        Box(left=288.0, top=32.0, right=736.0, bottom=480.0)
        """
        if self.size is None:
            return Box(0, 0, width, height)
        if self.resize == "stretch":
            rows, columns = self.crop_fraction * height, self.crop_fraction * width
        else:
            if self.resize == "shorter":
                scale = self.crop_fraction * min(height / self.size[0], width / self.size[1])
            else:
                scale = min(height, width) / self.resize
            rows, columns = self.size[0] * scale, self.size[1] * scale
        return Box((width - columns) / 2, (height - rows) / 2, (width + columns) / 2, (height + rows) / 2)


class RandomBox(NamedTuple):
    """Parameters of torchvision's RandomResizedCrop, for random crops while images are decoded on the host.

    Attributes:
      scale: minimum and maximum area of the crop, as fractions of the area of the image.
      ratio: minimum and maximum aspect ratio of the crop, width / height.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def draw(self, height: int, width: int, random: np.random.Generator) -> Box:
        """Return a random part of an image, drawn in the same way as by `jaxcnn.data.augment.resized_crop`."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * random.uniform(*self.scale)
            shape = math.exp(random.uniform(low, high))
            columns, rows = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < columns <= width and 0 < rows <= height:
                top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
                return Box(left, top, left + columns, top + rows)
        nearest = min(max(width / height, self.ratio[0]), self.ratio[1])
        rows, columns = min(height, round(width / nearest)), min(width, round(height * nearest))
        top, left = (height - rows) // 2, (width - columns) // 2
        return Box(left, top, left + columns, top + rows)
