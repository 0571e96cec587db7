"""Small real files for the cases to read and to damage: pictures, weights, a finished run, results, a recipe.

Each is made once, and copied for each case that names it.
"""

import functools
import gzip
import io
import json
import pickle
import shutil
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Flags of the runs. A case that repeats them resumes the run.
RUN = ("--model", "lenet5", "--steps", "1", "--batch-size", "8", "--no-progress")
PICTURES_RUN = (*RUN, "--dataset", "imagefolder:pictures", "--image-size", "28")

FORMATS = (("png", "PNG"), ("jpg", "JPEG"), ("gif", "GIF"), ("tif", "TIFF"), ("webp", "WEBP"), ("bmp", "BMP"))
MODES = ("RGB", "L", "RGBA", "P", "1", "I;16", "LA", "CMYK")

RECIPE = """import jaxcnn

config = jaxcnn.train.Config(
    model="lenet5",
    dataset="imagefolder:pictures",
    image_size=28,
    steps=1,
    batch_size=8,
    augment=("flip", "shift:1"),
    optimizer=jaxcnn.train.OptimizerConfig("adam", learning_rate=1e-3, b2=0.95),
    schedule=jaxcnn.train.ScheduleConfig("linear"),
)
"""

NET = '''"""Attributes for `jaxcnn summary net:ATTRIBUTE`."""

import flax.linen as nn
import jax.numpy as jnp
import numpy


class Small(nn.Module):
    num_classes: int = 10
    width: int = 4

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


class Wrong(nn.Module):
    def __call__(self, x, train=False):
        return jnp.dot(x, jnp.ones((5, 5)))


class Abstract(nn.Module):
    """A module without a call."""


class needs(nn.Module):
    width: int


SMALL, wrong, nothing, three = Small(), Wrong(), None, 3
no_signature = numpy.add


def small():
    return Small()


def fails():
    raise RuntimeError("a mistake\\nin two lines")


def exits():
    raise SystemExit(3)


def recursion():
    return recursion()


def function(x):
    return x * 2
'''


def _pictures(folder: Path) -> None:
    """Two classes with a few pictures of 28x28 pixels for each of two splits, in several formats."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                suffix, kind = (("png", "PNG"), ("jpg", "JPEG"))[index % 2]
                pixels = rng.integers(0, 256, (28, 28, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.{suffix}", kind)


def _images(folder: Path) -> None:
    """Pictures in different formats, modes and sizes, as somebody may want them classified."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index, (suffix, kind) in enumerate(FORMATS):
        picture = Image.fromarray(rng.integers(0, 256, (20 + index, 40 - index, 3), np.uint8))
        picture.save(folder / f"{index}.{suffix}", kind)
    for index, mode in enumerate(MODES, len(FORMATS)):
        picture = Image.fromarray(rng.integers(0, 256, (28, 28, 3), np.uint8))
        picture = picture.convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)
        picture.save(folder / f"{index}.tif")
        if mode != "CMYK":
            picture.save(folder / f"{index}.png")


@functools.cache
def _lenet(image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return variables of LeNet-5 for images of a shape."""
    import jax

    from jaxcnn import models

    model = models.create_model("lenet5")
    return jax.jit(model.init, static_argnames="train")(
        jax.random.key(0), np.zeros((1, *image_shape), np.float32), train=False
    )


def _safetensors(path: Path) -> None:
    from jaxcnn import weights

    weights.save(path, "lenet5", _lenet((28, 28, 1)), image_shape=(28, 28, 1))


class _Storage:
    """Stands for a storage in a file of PyTorch: the pickle contains a persistent id instead."""

    def __init__(self, key: int, size: int):
        self.id = ("storage", _Global("torch", "FloatStorage"), str(key), "cpu", size)


class _Global:
    """Stands for a name that the pickle imports."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class _Pickler(pickle._Pickler):  # the one in Python, since names that are not there can be written with it
    def persistent_id(self, value):
        return value.id if isinstance(value, _Storage) else None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, _Global):
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, _Tensor):
            self.save(_Global("torch._utils", "_rebuild_tensor_v2"))
            strides = tuple(int(np.prod(value.shape[axis + 1 :])) for axis in range(len(value.shape)))
            self.save((_Storage(value.key, int(np.prod(value.shape))), 0, value.shape, strides, False, OrderedDict()))
            self.write(pickle.REDUCE)
        else:
            super().save(value, save_persistent_id)


class _Tensor:
    def __init__(self, key: int, shape: tuple[int, ...]):
        self.key, self.shape = key, shape


def _pth(path: Path) -> None:
    """A state dict in PyTorch's format, written without PyTorch."""
    from jaxcnn import weights

    arrays = {name: np.asarray(array) for name, array in weights.to_ours(_lenet((28, 28, 1))).items()}
    data = io.BytesIO()
    _Pickler(data, protocol=2).dump(
        {name: _Tensor(key, array.shape) for key, (name, array) in enumerate(arrays.items())}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data.getvalue())
        archive.writestr("archive/byteorder", b"little")
        for key, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", b"3\n")


def _results(folder: Path) -> None:
    """Two results of `jaxcnn benchmark`."""
    folder.mkdir()
    row = {"model": "lenet5", "mode": "train", "dtype": "float32", "parallel": "pmap", "devices": 1, "batch_size": 8,
           "image_size": 28, "steps_per_dispatch": 1, "compile_seconds": 1.5, "step_ms": 2.0, "step_ms_p95": 2.5,
           "samples_ms": [1.9, 2.0, 2.1], "images_per_second": 4000.0, "error": None, "device_kind": "cpu",
           "jax": "0.10.2",
           "jaxlib": "0.10.2", "flax": "0.12.8", "xla_flags": "", "convolutions": "xla",
           "freed_memory": "kept"}  # fmt: skip
    slower = {**row, "step_ms": 2.1, "samples_ms": [2.0, 2.1, 2.2]}
    for name, rows in (("old", [row, {**row, "batch_size": 16}]), ("new", [slower, {**slower, "batch_size": 16}])):
        document = {"title": "Benchmark of lenet5", "date": "2025-01-01T00:00:00+00:00", "rows": rows}
        (folder / f"{name}.json").write_text(json.dumps(document, indent=1))
    shutil.copy(folder / "new.json", folder / "rows.json")


def _originals(folder: Path) -> None:
    """Files in the format of MNIST, with a few images."""
    folder.mkdir()
    for split, count in (("train", 20), ("t10k", 10)):
        images = struct.pack(">4I", 0x803, count, 28, 28) + bytes(count * 28 * 28)
        labels = struct.pack(">2I", 0x801, count) + bytes(index % 10 for index in range(count))
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, mtime=0))
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels, mtime=0))


# What makes each item, given the path at which to make it. The modules that `summary` may import are beside `net.py`.
MAKERS: dict[str, Callable[[Path], object]] = {
    "pictures": _pictures,
    "images": _images,
    "weights.safetensors": _safetensors,
    "weights.pth": _pth,
    "results": _results,
    "originals": _originals,
    "recipe.py": lambda path: path.write_text(RECIPE),
    "net.py": lambda path: path.write_text(NET),
    "broken.py": lambda path: path.write_text("1 / 0\n"),
    "unparsable.py": lambda path: path.write_text("def x(:\n"),
    "exits.py": lambda path: path.write_text("import sys\nsys.exit(3)\n"),
    "empty": lambda path: path.mkdir(),
    "file": lambda path: path.write_text("x"),
    "dangling": lambda path: path.symlink_to("not-there"),
    "loop": lambda path: path.symlink_to("loop"),
}
# Items that a command makes.
TRAINED = {"run": ("train", *RUN), "pictures_run": ("train", *PICTURES_RUN)}
# Other items that an item refers to.
NEEDS = {"pictures_run": ("pictures",), "recipe.py": ("pictures",)}
ITEMS = (*MAKERS, *TRAINED)
