"""Decode an image file to pixels, in the same way for training, evaluation, prediction and visualization.

Decoding follows these rules, in this order:

1. Pixels with 16 bits per channel are scaled to 8 bits. Pixels with 32 bits raise an error: their range is unknown.
2. The EXIF orientation is applied.
3. Transparent pixels are composited on the background color of the geometry. The first frame of an animation is used.
4. The geometry crops and resizes the image.

libjpeg-turbo decodes JPEG files at 1/2, 1/4 or 1/8 of the resolution if the output size allows it. Decoding at a
reduced resolution is much cheaper than resizing the fully decoded image. Rows below the crop are not decoded. Pillow
decodes all other formats. libjpeg-turbo and Pillow release the global interpreter lock (GIL) of Python. `png_batch`
decodes many small PNG files at once.
"""

from jaxcnn.data.decode.geometry import CROP_FRACTION, Background, Box, Geometry, RandomBox
from jaxcnn.data.decode.image import check, decode, fit
from jaxcnn.data.decode.pillow import (
    MAX_PIXELS,
    NotAnImageError,
    convert,
    count_channels,
    load_pixels,
    open_image,
    readable_formats,
    upright_size,
)
from jaxcnn.data.decode.png_batch import decode_together

__all__ = [
    "CROP_FRACTION",
    "MAX_PIXELS",
    "Background",
    "Box",
    "Geometry",
    "NotAnImageError",
    "RandomBox",
    "check",
    "convert",
    "count_channels",
    "decode",
    "decode_together",
    "fit",
    "load_pixels",
    "open_image",
    "readable_formats",
    "upright_size",
]
