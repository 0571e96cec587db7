"""Copies of image folders and tables in the folder of prepared datasets: their names, files and locks.

The copy of a folder is named `imagefolder_PATH_CONTENT`, by a hash of the path of the folder and one of the names,
sizes and modification times of its files. A process locks the copies that it uses. The copy of a changed folder
replaces the older copies that no process uses. Copies of tables are named likewise.
"""

import collections
import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxcnn.errors import RunError, UsageError

VERSION = "1.0.0"

_locked: dict[Path, int] = {}
"""File descriptors of the copies that this process uses, open until it ends."""


def name_copy(identity: bytes, fingerprint: str) -> str:
    """Return the name of the copy of a folder or a table. Its changes do not change `identity`, such as its path."""
    return f"{_prefix(identity)}{fingerprint}"


def _prefix(identity: bytes) -> str:
    return f"imagefolder_{hashlib.sha256(identity).hexdigest()[:8]}_"


def use(copy: Path) -> bool:
    """Return whether a complete copy exists. If so, no process removes it as long as this one runs."""
    if copy in _locked and (copy / "dataset_info.json").exists():
        return True
    descriptor = _lock(copy.parent, exclusive=False)
    if not (copy / "dataset_info.json").exists():
        if descriptor is not None:
            os.close(descriptor)
        return False
    if descriptor is not None:
        _locked[copy] = descriptor
    return True


def remove_leftovers(root: Path) -> None:
    """Remove the temporary folders of preparations that were killed."""
    for path in root.glob(".imagefolder_*-*"):
        _remove_unused(path)


def remove_older(root: Path, identity: bytes, keep: str) -> None:
    """Remove the copies of a folder or a table other than the one named `keep`, unless a process uses them."""
    for path in root.glob(f"{_prefix(identity)}*"):
        if path.name != keep:
            _remove_unused(path)


def _remove_unused(path: Path) -> None:
    descriptor = _lock(path, exclusive=True)
    if descriptor is not None:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


@contextlib.contextmanager
def temporary(root: Path, name: str) -> Iterator[Path]:
    """Yield a temporary folder in `root`, which is removed afterwards; `root` too if it was made for it.

    Raises:
      UsageError: if `root` cannot be written.
      RunError: if an error of the system occurs while files are written, such as a full disk.
    """
    made = [path for path in (root, *root.parents) if not path.exists()]
    work = None
    try:
        try:
            root.mkdir(parents=True, exist_ok=True)
            work, lock = _locked_temporary(root, name)
        except OSError as error:
            raise UsageError(
                f"cannot write to {root}: {error.strerror or error}. Choose another folder with --data-dir."
            ) from error
        try:
            yield work
        except OSError as error:
            raise RunError(
                f"cannot write {work}: {error.strerror or error}. Free space, or use another --data-dir."
            ) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
            if lock is not None:
                os.close(lock)
    finally:
        with contextlib.suppress(OSError):  # it contains a dataset
            for path in made:
                path.rmdir()


def _locked_temporary(root: Path, name: str) -> tuple[Path, int | None]:
    """Create a temporary folder, locked so that no other process removes it."""
    while True:
        work = Path(tempfile.mkdtemp(dir=root, prefix=f".{name}-"))
        lock = _lock(work, exclusive=False)
        if work.exists():
            return work, lock
        if lock is not None:  # another process removed the folder before it was locked
            os.close(lock)


def _lock(folder: Path, exclusive: bool) -> int | None:
    """Lock a folder and return its file descriptor, or None if that is not possible.

    An exclusive lock does not wait. The kernel releases a lock when its process ends, even if it is killed.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
    except OSError:  # in use, or a file system without locks
        os.close(descriptor)
        return None
    return descriptor


class Writer:
    """Writes the records of a dataset, and then the files that make it a TFDS dataset.

    Args:
      folder: folder of the dataset, which is created.
      name: name of the dataset.
      class_names: name of each class, in the order of the labels.
    """

    def __init__(self, folder: Path, name: str, class_names: tuple[str, ...]):
        # While TFDS is imported, imports in other threads fail. Threads that decode images import parts of Pillow.
        import tensorflow_datasets  # noqa: F401

        folder.mkdir(parents=True)
        self._folder, self._name, self._class_names = folder, name, class_names
        self._writers: dict[str, Any] = {}
        self._counts, self._bytes = collections.Counter[str](), collections.Counter[str]()
        for split in ("train", "test"):
            self._open(split)

    def _open(self, split: str) -> Any:
        """Return the writer of a split. The split "validation" has a file only if an example is written."""
        from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

        if split not in self._writers:
            path = self._folder / f"{self._name}-{split}.array_record-00000-of-00001"
            self._writers[split] = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        return self._writers[split]

    def write(self, split: str, image: bytes, label: str, filename: str) -> None:
        """Write an example."""
        from tensorflow_datasets.proto import tf_example_pb2

        example = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]
        feature = example.features.feature
        feature["image"].bytes_list.value.append(image)
        feature["label"].int64_list.value.append(self._class_names.index(label))
        feature["filename"].bytes_list.value.append(filename.encode())
        record = example.SerializeToString()
        try:
            self._open(split).write(record)
        except Exception as error:  # the writer raises exceptions of unrelated types
            raise OSError(str(error)) from error
        self._counts[split] += 1
        self._bytes[split] += len(record)

    def close(self) -> None:
        """Write the records that are still in memory."""
        for writer in self._writers.values():
            try:
                writer.close()
            except Exception as error:  # as in `write`
                raise OSError(str(error)) from error

    def write_metadata(self, image_size: tuple[int | None, int | None]) -> None:
        """Write the files that describe the dataset.

        Args:
          image_size: height and width of the images; None if images differ in size.
        """
        import tensorflow_datasets as tfds

        template = tfds.core.ShardedFileTemplate(
            dataset_name=self._name,
            data_dir=self._folder,  # pyright: ignore[reportArgumentType]  # TFDS accepts any path
            filetype_suffix="array_record",
        )
        tfds.folder_dataset.write_metadata(
            data_dir=self._folder,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(*image_size, 3)),
                    "label": tfds.features.ClassLabel(names=self._class_names),
                    "filename": tfds.features.Text(),
                }
            ),
            split_infos=[
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[self._counts[split]],
                    num_bytes=self._bytes[split],
                    filename_template=template,
                )
                for split in self._writers
            ],
            version=VERSION,
            check_data=False,
            description=f"Images of {len(self._class_names)} classes from files.",
            supervised_keys=("image", "label"),
        )


def size_of(copy: Path) -> int:
    """Return the number of bytes of a copy."""
    return sum(path.stat().st_size for path in copy.iterdir())


def move(work: Path, copy: Path) -> None:
    """Move a complete copy from below `work` into place, unless another process has written the same copy meanwhile."""
    name = copy.parent
    try:
        (work / name.name).rename(name)
    except OSError:
        if (copy / "dataset_info.json").exists():
            return
        shutil.rmtree(copy, ignore_errors=True)  # parts of a copy that somebody has removed
        (work / name.name / copy.name).rename(copy)
