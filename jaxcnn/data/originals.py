"""Original files of well-known data sets, as their authors give them out, read into arrays.

Everything in a file is checked: its published sum where there is one, and its format. Nothing is unpacked to disk
and nothing in a file is run.
"""

import gzip
import hashlib
import io
import math
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data._original_sums import SUMS
from jaxcnn.errors import UsageError

# More than any file here has, unpacked (the additional images of SVHN): an archive that unpacks to more is refused.
MOST_BYTES = 2_500_000_000


class Split(NamedTuple):
    """Images uint8 `[N, H, W, C]` and the labels `[N]` of each label feature, by its name."""

    images: np.ndarray
    labels: Mapping[str, np.ndarray]


@dataclass
class Source:
    """A folder of original files.

    Attributes:
      dataset: whose files they are; only these have the right sums.
      verify: whether to compare with published sums.
      unverified: names of files that were read, but for which no sum is published.
    """

    folder: Path
    dataset: str
    verify: bool = True
    unverified: list[str] = field(default_factory=list)

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def read(self, name: str) -> bytes:
        """The content of a file, unpacked if it is a `.gz`.

        Raises:
          UsageError: a file that is missing, damaged, or not the original.
        """
        path = self.folder / name
        try:
            packed = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
        content = unpack(path, packed) if name.endswith(".gz") and not name.endswith(".tar.gz") else packed
        self._check(path, name, packed, content)
        return content

    def _check(self, path: Path, name: str, packed: bytes, content: bytes) -> None:
        sums = SUMS.get(self.dataset, {})
        # A copy that was packed anew has another sum, but its content has not.
        accepted = [
            (sums[key], data) for key, data in ((name, packed), (name.removesuffix(".gz"), content)) if key in sums
        ]
        if not accepted:
            self.unverified.append(name)
        elif self.verify and not any(digest(data, len(right)) == right for right, data in accepted):
            right, data = accepted[0]
            raise UsageError(
                f"{path} is not the original file of {self.dataset}: its sum is {digest(data, len(right))}, "
                f"not {right}; --no-verify takes it all the same"
            )


def digest(content: bytes, length: int) -> str:
    """The MD5, SHA-1 or SHA-256 of `content` in hexadecimal, whichever has `length` digits."""
    return hashlib.new({32: "md5", 40: "sha1", 64: "sha256"}[length], content, usedforsecurity=False).hexdigest()


def unpack(path: Path, content: bytes) -> bytes:
    """The content of a gzip file, or `content` itself if it is none.

    Raises:
      UsageError: a file that is damaged, or unpacks to more than any original file has.
    """
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read, or is damaged: {error}") from error
    if len(unpacked) > MOST_BYTES:
        raise UsageError(f"{path} unpacks to more than {MOST_BYTES:,} bytes, which no original file does")
    return unpacked


def parse_idx(path: Path, content: bytes) -> np.ndarray:
    """The array in the content of an idx file of unsigned bytes: images `[N, H, W]`, labels `[N]`; read-only.

    The format: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a big-endian
    32-bit integer, then the values in row-major order.

    Raises:
      UsageError: content that is cut short, or something else.
    """
    # NumPy has at most 64 dimensions; the format would allow 255.
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 64:
        found = content[:4].hex(" ")
        raise UsageError(f"{path} is not an idx file of unsigned bytes: it begins with {found!r}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise UsageError(f"{path} is damaged: it ends within its header")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise UsageError(
            f"{path} is damaged: {math.prod(shape)} bytes of shape {shape} should follow its header, "
            f"but {len(content) - start} do"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _read_idx_pairs(source: Source) -> dict[str, Split]:
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        arrays = []
        for file in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"):
            name = next((name for name in (f"{file}.gz", file) if source.has(name)), None)
            if name is None:
                raise UsageError(f"{source.folder} has no {file}.gz; prepare {source.dataset} needs its four idx files")
            arrays.append(parse_idx(source.folder / name, source.read(name)))
        images, labels = arrays
        if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
            raise UsageError(
                f"{prefix}-*-ubyte in {source.folder} have the shapes {images.shape} and {labels.shape}; "
                "images must be [N, 28, 28] and labels [N]"
            )
        splits[split] = Split(images[..., None], {"label": labels})
    return splits


@dataclass(frozen=True)
class _Cifar:
    """Where the two forms of a CIFAR data set have what: binary batches, and Python's pickles."""

    binary_archive: str
    binary: Mapping[str, Sequence[str]]
    python_archive: str
    python: Mapping[str, Sequence[str]]
    labels: Mapping[str, bytes]  # feature -> the pickles' key, in the order of a binary record's label bytes


CIFAR10 = _Cifar(
    "cifar-10-binary.tar.gz",
    {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
    "cifar-10-python.tar.gz",
    {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    {"label": b"labels"},
)
CIFAR100 = _Cifar(
    "cifar-100-binary.tar.gz",
    {"train": ["train.bin"], "test": ["test.bin"]},
    "cifar-100-python.tar.gz",
    {"train": ["train"], "test": ["test"]},
    {"coarse_label": b"coarse_labels", "label": b"fine_labels"},
)


def _read_cifar(source: Source, form: _Cifar) -> dict[str, Split]:
    choices = (
        (form.binary_archive, form.binary, _parse_cifar_binary),
        (form.python_archive, form.python, _parse_cifar_pickle),
    )
    for archive, files, parse in choices:
        wanted = [name for names in files.values() for name in names]
        if all(source.has(name) for name in wanted):
            contents = {name: source.read(name) for name in wanted}
        elif source.has(archive):
            contents = _members(source.folder / archive, source.read(archive), wanted)
        else:
            continue
        splits = {}
        for split, names in files.items():
            parts = [parse(source.folder / name, contents[name], form) for name in names]
            labels = {key: np.concatenate([part.labels[key] for part in parts]) for key in form.labels}
            splits[split] = Split(np.concatenate([part.images for part in parts]), labels)
        return splits
    raise UsageError(
        f"{source.folder} has neither {form.binary_archive}, {form.python_archive} nor what is in them, "
        f"{', '.join(name for names in form.binary.values() for name in names)}"
    )


def _members(path: Path, archive: bytes, wanted: Sequence[str]) -> dict[str, bytes]:
    """The content of the files of these names, whatever folder in the archive they are in."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                if member.isfile() and name in wanted and member.size <= MOST_BYTES:
                    file = tar.extractfile(member)
                    assert file is not None  # as it is of every regular file
                    found[name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read, or is damaged: {error}") from error
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UsageError(f"{path} has no {missing[0]}")
    return found


def _parse_cifar_binary(path: Path, content: bytes, form: _Cifar) -> Split:
    """Records of the label bytes followed by the red, green and blue planes of 32 x 32 pixels."""
    record = len(form.labels) + 3072
    if not content or len(content) % record:
        raise UsageError(f"{path} is damaged: {len(content):,} bytes are not whole records of {record}")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = {name: records[:, index] for index, name in enumerate(form.labels)}
    return Split(_planes_last(records[:, len(form.labels) :]), labels)


def _parse_cifar_pickle(path: Path, content: bytes, form: _Cifar) -> Split:
    try:
        values = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        pixels = np.asarray(values[b"data"])
        labels = {name: np.asarray(values[key]) for name, key in form.labels.items()}
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
            raise ValueError(f"data of shape {pixels.shape} and dtype {pixels.dtype}")
        if any(values.shape != pixels.shape[:1] for values in labels.values()):
            raise ValueError("not as many labels as images")
    except Exception as error:  # a pickle can raise anything
        raise UsageError(f"{path} is not a batch of CIFAR: {' '.join(str(error).split())}") from error
    return Split(_planes_last(pixels), {name: values.astype(np.uint8) for name, values in labels.items()})


def _planes_last(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of NumPy arrays and Python's own containers. A pickle can call anything; this one cannot."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _latin1,
        }
        if (module_name, global_name) not in allowed:
            raise pickle.UnpicklingError(f"it wants {module_name}.{global_name}")
        return allowed[module_name, global_name]


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it wants the encoding {encoding!r}")
    return text.encode("latin-1")


def _read_svhn(source: Source) -> dict[str, Split]:
    """MATLAB files of images `X` `[32, 32, 3, N]` and labels `y` `[N, 1]`, in which a 0 is called 10."""
    import scipy.io  # jax needs it too; its start is slow

    splits = {}
    for split in ("train", "test", "extra"):
        name = f"{split}_32x32.mat"
        if not source.has(name):
            if split == "extra":  # 1.3 GB that many leave out
                continue
            raise UsageError(
                f"{source.folder} has no {name}; prepare svhn_cropped needs train_32x32.mat and test_32x32.mat"
            )
        content = source.read(name)
        try:
            values = scipy.io.loadmat(io.BytesIO(content), variable_names=["X", "y"])
            images, labels = values["X"], values["y"].reshape(-1)
        except Exception as error:  # scipy raises a zoo of types
            raise UsageError(
                f"{source.folder / name} cannot be read, or is damaged: {' '.join(str(error).split())}"
            ) from error
        if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(labels)):
            raise UsageError(f"{source.folder / name} has images of shape {images.shape} for {len(labels)} labels")
        if not 1 <= labels.min() <= labels.max() <= 10:
            raise UsageError(f"{source.folder / name} has labels from {labels.min()} to {labels.max()}, not 1 to 10")
        splits[split] = Split(np.moveaxis(images, -1, 0), {"label": labels % 10})
    return splits


READERS: dict[str, Callable[[Source], dict[str, Split]]] = {
    "cifar10": lambda source: _read_cifar(source, CIFAR10),
    "cifar100": lambda source: _read_cifar(source, CIFAR100),
    "fashion_mnist": _read_idx_pairs,
    "kmnist": _read_idx_pairs,
    "mnist": _read_idx_pairs,
    "svhn_cropped": _read_svhn,
}
"""Data sets whose original files are understood, and what reads them."""
