"""Read the original files of well-known datasets into arrays.

The format of each file is checked. A file with a published checksum is also compared with this checksum. Nothing is
unpacked to disk, and no code in a file is executed.
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

from jaxcnn.data.preparation._original_checksums import SUMS
from jaxcnn.errors import UsageError

# Maximum unpacked size of an archive. The largest original file, the extra images of SVHN, is smaller.
MAX_UNPACKED_BYTES = 2_500_000_000


class Split(NamedTuple):
    """Examples of a split.

    Attributes:
      images: uint8 `[N, H, W, C]`.
      labels: dict from the name of each label feature to its labels `[N]`.
    """

    images: np.ndarray
    labels: Mapping[str, np.ndarray]


@dataclass
class Source:
    """A folder of original files.

    Attributes:
      folder: path of the folder.
      dataset: name of the dataset, which selects the checksums.
      verify: whether to require the published checksums.
      unverified: names of the files read so far that have no published checksum.
    """

    folder: Path
    dataset: str
    verify: bool = True
    unverified: list[str] = field(default_factory=list)

    def has(self, name: str) -> bool:
        """Return whether the folder contains a file of this name."""
        return (self.folder / name).is_file()

    def read(self, name: str) -> bytes:
        """Return the content of a file, unpacked if its name ends in `.gz` (but not in `.tar.gz`).

        Raises:
          UsageError: if the file is missing, damaged, or not the original.
        """
        path = self.folder / name
        try:
            packed = path.read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"cannot read {path}: {reason}. Give a readable file.") from error
        content = unpack(path, packed) if name.endswith(".gz") and not name.endswith(".tar.gz") else packed
        self._check(path, name, packed, content)
        return content

    def _check(self, path: Path, name: str, packed: bytes, content: bytes) -> None:
        """Compare a file with its published checksum, or record that the file has no published checksum."""
        sums = SUMS.get(self.dataset, {})
        # Accept either checksum: compressing a file again changes the checksum of the archive, but not of the content.
        candidates = [(name, packed), (name.removesuffix(".gz"), content)]
        accepted = [(sums[key], data) for key, data in candidates if key in sums]
        if not accepted:
            self.unverified.append(name)
        elif self.verify and not any(digest(data, len(expected)) == expected for expected, data in accepted):
            expected, data = accepted[0]
            raise UsageError(
                f"{path} is not the original file of {self.dataset}: its checksum is {digest(data, len(expected))}, "
                f"expected {expected}. Download the file again, or accept the file with --no-verify."
            )


def digest(content: bytes, length: int) -> str:
    """Return the MD5 (`length` 32), SHA-1 (40) or SHA-256 (64) checksum of `content` in hexadecimal."""
    return hashlib.new({32: "md5", 40: "sha1", 64: "sha256"}[length], content, usedforsecurity=False).hexdigest()


def unpack(path: Path, content: bytes) -> bytes:
    """Decompress the content of a gzip file; return any other content unchanged.

    Raises:
      UsageError: if the content is damaged, or unpacks to more than `MAX_UNPACKED_BYTES`. The error message contains
        `path`.
    """
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} is damaged: {error}. Download the file again.") from error
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise UsageError(f"{path} unpacks to more than {MAX_UNPACKED_BYTES:,} bytes. Download the original file.")
    return unpacked


def parse_idx(path: Path, content: bytes) -> np.ndarray:
    """Parse the content of an idx file of unsigned bytes.

    The idx format is: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a
    big-endian 32-bit integer, and the values in row-major order.

    Returns:
      Images, uint8 `[N, H, W]`, or labels, uint8 `[N]`. The array is read-only.

    Raises:
      UsageError: if the content is truncated, or is not in the idx format. The error message contains `path`.
    """
    # The format allows 255 dimensions, but NumPy only 64.
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 64:
        found = content[:4].hex(" ")
        raise UsageError(
            f"{path} is not an idx file of unsigned bytes: the file begins with {found!r}. Download the original file."
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise UsageError(f"{path} is damaged: the file ends within its header. Download the file again.")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise UsageError(
            f"{path} is damaged: {len(content) - start} bytes follow its header, expected {math.prod(shape)} for "
            f"shape {shape}. Download the file again."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _read_idx_pairs(source: Source) -> dict[str, Split]:
    """Read the idx files of MNIST and of the datasets with the same file names."""
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        arrays = []
        for file in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"):
            name = next((name for name in (f"{file}.gz", file) if source.has(name)), None)
            if name is None:
                raise UsageError(
                    f"{source.folder} has no {file}.gz. "
                    f"Put the four original idx files of {source.dataset} into this folder."
                )
            arrays.append(parse_idx(source.folder / name, source.read(name)))
        images, labels = arrays
        if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
            raise UsageError(
                f"{prefix}-*-ubyte in {source.folder} have the wrong shapes: {images.shape} and {labels.shape}. "
                "Use images of shape [N, 28, 28] and labels of shape [N]."
            )
        splits[split] = Split(images[..., None], {"label": labels})
    return splits


@dataclass(frozen=True)
class _CifarFiles:
    """Names of the archives and files of a CIFAR dataset, in its binary and in its Python (pickle) version."""

    binary_archive: str
    binary: Mapping[str, Sequence[str]]
    python_archive: str
    python: Mapping[str, Sequence[str]]
    labels: Mapping[str, bytes]  # feature -> key in the pickles, in the order of the label bytes of a binary record


CIFAR10 = _CifarFiles(
    "cifar-10-binary.tar.gz",
    {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
    "cifar-10-python.tar.gz",
    {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    {"label": b"labels"},
)
CIFAR100 = _CifarFiles(
    "cifar-100-binary.tar.gz",
    {"train": ["train.bin"], "test": ["test.bin"]},
    "cifar-100-python.tar.gz",
    {"train": ["train"], "test": ["test"]},
    {"coarse_label": b"coarse_labels", "label": b"fine_labels"},
)


def _read_cifar(source: Source, files: _CifarFiles) -> dict[str, Split]:
    versions = (
        (files.binary_archive, files.binary, _parse_cifar_binary),
        (files.python_archive, files.python, _parse_cifar_pickle),
    )
    for archive, files_by_split, parse in versions:
        wanted = [name for names in files_by_split.values() for name in names]
        if all(source.has(name) for name in wanted):
            contents = {name: source.read(name) for name in wanted}
        elif source.has(archive):
            contents = _extract(source.folder / archive, source.read(archive), wanted)
        else:
            continue
        splits = {}
        for split, names in files_by_split.items():
            parts = [parse(source.folder / name, contents[name], files) for name in names]
            labels = {key: np.concatenate([part.labels[key] for part in parts]) for key in files.labels}
            splits[split] = Split(np.concatenate([part.images for part in parts]), labels)
        return splits
    raise UsageError(
        f"{source.folder} does not contain the files of {source.dataset}. Put {files.binary_archive}, "
        f"{files.python_archive}, or all files of one of these archives into this folder."
    )


def _extract(path: Path, archive: bytes, wanted: Sequence[str]) -> dict[str, bytes]:
    """Return the contents of the files with the `wanted` names, in any folder of a tar archive."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                if member.isfile() and name in wanted and member.size <= MAX_UNPACKED_BYTES:
                    file = tar.extractfile(member)
                    assert file is not None  # None only for members that are not regular files
                    found[name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} is damaged: {error}. Download the file again.") from error
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UsageError(f"{path} does not contain the file {missing[0]}. Download the original archive.")
    return found


def _parse_cifar_binary(path: Path, content: bytes, files: _CifarFiles) -> Split:
    """Parse records, which consist of the label bytes and the red, green and blue planes of 32 x 32 pixels."""
    record = len(files.labels) + 3072
    if not content or len(content) % record:
        raise UsageError(
            f"{path} is damaged: its size of {len(content):,} bytes is not a positive multiple of {record}. "
            "Download the file again."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = {name: records[:, index] for index, name in enumerate(files.labels)}
    return Split(_channels_last(records[:, len(files.labels) :]), labels)


def _parse_cifar_pickle(path: Path, content: bytes, files: _CifarFiles) -> Split:
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        pixels = np.asarray(batch[b"data"])
        labels = {name: np.asarray(batch[key]) for name, key in files.labels.items()}
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
            raise ValueError(f"the data has shape {pixels.shape} and dtype {pixels.dtype}")
        if any(values.shape != pixels.shape[:1] for values in labels.values()):
            raise ValueError("the file has different numbers of labels and images")
    except Exception as error:  # unpickling damaged content can raise any exception
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is not a batch of CIFAR: {reason}. Download the original file.") from error
    return Split(_channels_last(pixels), {name: values.astype(np.uint8) for name, values in labels.items()})


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    """Reshape color planes `[N, 3072]` to images `[N, 32, 32, 3]`."""
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


class _ArrayUnpickler(pickle.Unpickler):
    """Read only pickles that consist of NumPy arrays and built-in containers.

    A pickle may call any function that it names. This class refuses every name except those that NumPy arrays need.
    """

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encode_latin1,
        }
        if (module_name, global_name) not in allowed:
            raise pickle.UnpicklingError(f"the pickle refers to {module_name}.{global_name}, which is not allowed")
        return allowed[module_name, global_name]


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"the pickle refers to the encoding {encoding!r}, which is not allowed")
    return text.encode("latin-1")


def _read_svhn(source: Source) -> dict[str, Split]:
    """Read MATLAB files of images `X` `[32, 32, 3, N]` and labels `y` `[N, 1]`, where label 10 is the digit 0."""
    import scipy.io  # slow to import

    splits = {}
    for split in ("train", "test", "extra"):
        name = f"{split}_32x32.mat"
        if not source.has(name):
            if split == "extra":  # optional, 1.3 GB
                continue
            raise UsageError(f"{source.folder} has no {name}. Put train_32x32.mat and test_32x32.mat into this folder.")
        content = source.read(name)
        try:
            values = scipy.io.loadmat(io.BytesIO(content), variable_names=["X", "y"])
            images, labels = values["X"], values["y"].reshape(-1)
        except Exception as error:  # scipy raises exceptions of many unrelated types
            reason = " ".join(str(error).split())
            raise UsageError(f"{source.folder / name} is damaged: {reason}. Download the file again.") from error
        if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(labels)):
            raise UsageError(
                f"{source.folder / name} has images of the wrong dtype or shape: {images.dtype} {images.shape}. "
                f"Use uint8 images of shape (32, 32, 3, {len(labels)}), one for each label."
            )
        if not 1 <= labels.min() <= labels.max() <= 10:
            raise UsageError(
                f"{source.folder / name} has labels out of range: {labels.min()} to {labels.max()}. Use labels 1 to 10."
            )
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
"""Functions that read the original files, by the name of the dataset."""
