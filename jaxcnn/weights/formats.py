"""Read weight files of all supported formats: safetensors, PyTorch, indexes of several files, Hugging Face folders.

The format is recognized by the content of a file. The suffix does not matter: `.pth`, `.pt`, `.bin`, `.ckpt`,
`.pth.tar` and no suffix are all in use for the same contents.
"""

import json
from collections.abc import Callable
from pathlib import Path

from jaxcnn.errors import UsageError
from jaxcnn.weights import safetensors, torch_files
from jaxcnn.weights._stored import Stored

INDEX_SUFFIX = ".index.json"

# Files in a Hugging Face folder, in order of preference.
IN_FOLDER = (
    "model.safetensors",
    f"model.safetensors{INDEX_SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX_SUFFIX}",
)

MAX_INDEX_BYTES = 64 * 2**20

# First bytes of files that are not weight files, with the kind of the file and advice for the user.
_OTHERS = (
    (b"\x89HDF", "an HDF5 file, such as Keras writes", "Save the weights with torch.save, or as .safetensors"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "Run `git lfs pull`"),
    (b"\x1f\x8b", "compressed by gzip", "Unpack it with gunzip"),
    (b"BZh", "compressed by bzip2", "Unpack it with bunzip2"),
    (b"\xfd7zXZ", "compressed by xz", "Unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "Unpack it with unzstd"),
    (b"<", "an HTML or XML page, perhaps an error of a server", "Download the index again"),
    (b"\x93NUMPY", "a NumPy array", "Save the arrays as .safetensors"),
    (b"\x08", "an ONNX file or another Protocol Buffer", "Save `model.state_dict()` with torch.save"),
)
_TAR_MAGIC = (257, b"ustar")


def read_arrays(path: Path) -> dict[str, Stored]:
    """Return the arrays in a weight file, by their names in the file.

    Args:
      path: a file of `torch.save` or a safetensors file, with any suffix; an index of several files (`*.index.json`);
        or a folder that contains one of the files in `IN_FOLDER`.

    Raises:
      UsageError: if the file is missing, damaged, of another format, or contains no arrays.
    """
    path = file_in(path)
    try:
        if not path.is_file():
            raise UsageError(f"weight file does not exist: {path}. Check the path.")
        return _read_index(path) if path.name.endswith(INDEX_SUFFIX) else _reader(path)(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}. Check the permissions of the file.") from error


def files_of(path: Path) -> list[Path]:
    """Return the path itself and, if the weight file is an index, the paths of all files in the index.

    Raises:
      UsageError: if the index is damaged, or a file in the index is missing or outside of the folder of the index.

    >>> [path.name for path in files_of(Path("resnet50.safetensors"))]
    ['resnet50.safetensors']
    """
    return [path, *sorted(set(_files_in_index(path).values()))] if path.name.endswith(INDEX_SUFFIX) else [path]


def is_weight_folder(path: Path) -> bool:
    """Return whether `path` is a folder that contains one of the files in `IN_FOLDER`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "model.safetensors").write_bytes(b"the weights")
    ...     is_weight_folder(Path(folder))
    True
    """
    return path.is_dir() and any((path / name).is_file() for name in IN_FOLDER)


def file_in(path: Path) -> Path:
    """Return the weight file in the folder `path`, or `path` itself if it is not a folder.

    Raises:
      UsageError: if the folder has none of the files in `IN_FOLDER`.
    """
    if not path.is_dir():
        return path
    for name in IN_FOLDER:
        if (path / name).is_file():
            return path / name
    raise UsageError(f"folder without weights: {path}. The folder should contain one of {', '.join(IN_FOLDER)}.")


def _reader(path: Path) -> Callable[[Path], dict[str, Stored]]:
    """Return the function that reads a file, chosen by the first bytes of the file.

    Raises:
      UsageError: if the file has another format.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if safetensors.is_safetensors(path):  # check first: the length of the header may look like the start of a pickle
        return safetensors.read
    if start.startswith((torch_files.ARCHIVE_START, torch_files.PICKLE_START)):
        return torch_files.read
    if path.suffix == ".safetensors":
        return safetensors.read
    where, magic = _TAR_MAGIC
    kind, remedy = "neither a file of torch.save nor a safetensors file", "Give one of these"
    if not start:
        kind, remedy = "empty", "Download or save the file again"
    elif start[where : where + len(magic)] == magic:
        kind, remedy = "a tar archive", "Unpack it, and give a file in it"
    else:
        for beginning, other, what_to_do in _OTHERS:
            if start.lstrip().startswith(beginning) if beginning == b"<" else start.startswith(beginning):
                kind, remedy = other, what_to_do
                break
    raise UsageError(f"cannot read {path}: it is {kind}. {remedy}.")


def _files_in_index(path: Path) -> dict[str, Path]:
    """Return the file of each array in a Hugging Face index: `{"weight_map": {name: file}}`.

    Raises:
      UsageError: if the index is damaged, or a file is missing or outside of the folder of the index.
    """
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise UsageError(f"index of weights is too large: {path}. Download the index again.")
    try:
        files = dict(json.loads(path.read_bytes())["weight_map"])
    except (ValueError, RecursionError, KeyError, TypeError):
        raise UsageError(
            f"index of weights has no weight_map from array names to files: {path}. Download the index again."
        ) from None
    for name in {json.dumps(name): name for name in files.values()}.values():
        if not isinstance(name, str) or name != Path(name).name or name.endswith(INDEX_SUFFIX):
            raise UsageError(
                f"index {path} names a file outside of its folder: {str(name)[:60]!r}. Do not use this index."
            )
        if not (path.parent / name).is_file():
            raise UsageError(
                f"{path} needs the file {name[:80]!r} in the same folder, but this file is missing. "
                "Download the missing file."
            )
    return {array: path.parent / name for array, name in files.items()}


def _read_index(path: Path) -> dict[str, Stored]:
    files, arrays = _files_in_index(path), {}
    for file in sorted(set(files.values())):
        arrays |= {name: stored for name, stored in _reader(file)(file).items() if files.get(name) == file}
    if missing := files.keys() - arrays.keys():
        raise UsageError(
            f"{path}: {len(missing)} arrays are not in the files that the index gives, such as {min(missing)[:60]!r}. "
            "Download the files again."
        )
    return arrays
