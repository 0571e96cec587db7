"""One way from a file to pixels: training, evaluation, prediction and visualization see equal pixels."""

import io
import itertools
import warnings

import numpy as np
import pytest
from PIL import Image

from jaxcnn import predict
from jaxcnn.data import decode, open_dataset, open_pipeline
from jaxcnn.data.imagefolder import inventory
from jaxcnn.errors import UsageError
from jaxcnn.train import Config, evaluation_batches
from jaxcnn.train.runtime.preprocessing import Preprocessing

MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "RGBa",
    "La",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "I;16",
    "F",
)


def writable_formats():
    """Return the formats that Pillow can write and read, with the suffix of their files."""
    readable = {*decode.readable_formats()} - {"SPIDER"}  # which stores all images with 32 bits
    known = {name: suffix for suffix, name in sorted(Image.registered_extensions().items(), reverse=True)}
    return sorted((name, known.get(name, ".img")) for name in Image.SAVE if name in readable)


def draw(random, mode, height, width):
    """Return a picture of smooth colors and noise in this mode."""
    values = random.integers(0, 256, (2, 2, 4), dtype=np.uint8)
    smooth = Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(smooth).astype(int) + random.integers(-20, 20, (height, width, 4))
    pixels = pixels.clip(0, 255).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if mode in ("I", "F"):
        return Image.fromarray(pixels[..., 0].astype({"I": np.int32, "F": np.float32}[mode]) * 200)
    image = Image.fromarray(pixels)
    if mode in ("RGBa", "La"):
        return image.convert({"RGBa": "RGBA", "La": "LA"}[mode]).convert(mode)
    if mode in ("RGBA", "LA", "PA"):
        return image.convert(mode) if mode != "PA" else image.convert("P").convert("PA")
    if mode == "LAB":
        return Image.frombytes("LAB", image.size, image.convert("RGB").tobytes())
    return image.convert("RGB").convert(mode)


def write_pictures(folder, count, seed):
    """Write pictures of all formats and modes, of random sizes and orientations, into two class folders."""
    random = np.random.default_rng(seed)
    for name in ("first", "second"):
        (folder / name).mkdir(parents=True)
    kinds = itertools.cycle(itertools.product(writable_formats(), MODES))
    written = []
    while len(written) < count:
        (form, suffix), mode = next(kinds)
        height, width = (int(side) for side in random.integers(1, 70, 2))
        image = draw(random, mode, height, width)
        options = {}
        if random.random() < 0.5:
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = int(random.integers(1, 9))
        if form == "PNG" and mode in ("L", "P", "RGB") and random.random() < 0.5:
            options["transparency"] = {"L": 100, "P": 3, "RGB": (100, 110, 120)}[mode]
        if form in ("PNG", "GIF", "TIFF", "WEBP") and random.random() < 0.2:
            options |= {"save_all": True, "append_images": [image]}
        file = io.BytesIO()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image.save(file, form, **options)
        except (OSError, ValueError, KeyError, SystemError, TypeError):
            continue  # this format does not store this mode
        path = folder / ("first", "second")[len(written) % 2] / f"{len(written)}-{mode.replace(';', '')}{suffix}"
        path.write_bytes(file.getvalue())
        written.append(path)
    return written


def mutate(content, random):
    """Return a damaged copy of a file: cut, with flipped bits, or with a part that is removed or repeated."""
    start, stop = sorted(int(place) for place in random.integers(0, len(content) + 1, 2))
    kind = random.integers(4)
    if kind == 0:
        return content[:stop]
    if kind == 1:
        changed = bytearray(content)
        for place in random.integers(0, len(content), 8):
            changed[place] ^= 1 << int(random.integers(8))
        return bytes(changed)
    if kind == 2:
        return content[:start] + content[stop:]
    return content[:stop] + content[start:]


def check_equal_pixels(folder, data_dir, **fields):
    """Check every file in a folder, and return how many are images and how many are refused."""
    config = Config(dataset=f"imagefolder:{folder}", data_dir=str(data_dir), skip_damaged=True, **fields)
    dataset = open_dataset(config.dataset, data_dir, skip_damaged=True)
    preprocessing = Preprocessing.of(dataset, config)
    seen = {}
    for split, examples in dataset.examples.items():
        stored = dataset.read_encoded(split, range(examples))
        images, _ = dataset.read(split, preprocessing.geometry)
        seen |= {example.image: pixels for example, pixels in zip(stored, images, strict=True)}
    # Training and evaluation read batches.
    batch_size = min(32, dataset.examples["train"])
    pipeline = open_pipeline(dataset, batch_size, geometry=preprocessing.geometry, residence="disk", workers=2)
    batch = next(pipeline.batches())
    for place, index in enumerate(pipeline.indices(0)):
        np.testing.assert_array_equal(batch["image"][place], dataset.read("train", preprocessing.geometry)[0][index])
    tested, _ = next(pipeline.evaluation_batches(dataset.examples["test"]))
    np.testing.assert_array_equal(tested["image"], dataset.read("test", preprocessing.geometry)[0])
    tested, _ = next(evaluation_batches(dataset, preprocessing, dataset.examples["test"]))  # of `eval` and `visualize`
    np.testing.assert_array_equal(tested["image"], dataset.read("test", preprocessing.geometry)[0])
    refused = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        content = path.read_bytes()
        try:
            pixels = predict.read_image(path, preprocessing)  # `visualize --image` calls it too
        except UsageError:
            refused += 1
            assert content not in seen, f"{path} is refused by predict, but not by train"
        else:
            assert content in seen, f"{path} is refused by train, but not by predict"
            np.testing.assert_array_equal(pixels, seen[content], err_msg=str(path))
    return len(seen), refused, len(inventory(dataset.directory)["skipped"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "fields", [{"image_size": (24, 20)}, {"image_size": 17, "resize": "stretch", "background": "black"}]
)
@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_training_evaluation_and_prediction_see_equal_pixels(count, fields, tmp_path):
    write_pictures(tmp_path / "pictures", count, seed=count)
    images, refused, skipped = check_equal_pixels(tmp_path / "pictures", tmp_path / "data", **fields)
    assert images + refused >= count * 0.9  # some tiny pictures are equal
    assert refused == skipped < count / 10  # 32 bits, and modes that Pillow cannot convert


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_damaged_pictures_are_refused_equally(count, tmp_path):
    random = np.random.default_rng(count)
    for path in write_pictures(tmp_path / "pictures", count, seed=count + 1):
        path.write_bytes(mutate(path.read_bytes(), random))
    for name in ("first", "second"):
        for number in range(3):
            Image.new("RGB", (9, 9 + number)).save(tmp_path / "pictures" / name / f"good{number}.png")
    _, refused, _ = check_equal_pixels(tmp_path / "pictures", tmp_path / "data", image_size=20)
    assert refused > count / 4
