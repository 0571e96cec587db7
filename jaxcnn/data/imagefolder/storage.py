"""Copies of image folders and tables in the folder of prepared datasets: their names, files and locks.

The name of the copy of a folder is `imagefolder_PATH_CONTENT`. PATH is a hash of the path of the folder. CONTENT is a
hash of the names, sizes and modification times of the files in the folder. Copies of tables are named in the same way
as copies of folders. A process locks the copies that it uses. When a changed folder is copied again, its older copies
are removed if no process uses them.
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
"""File descriptors of the copies that this process uses, which stay open until the process ends."""


def name_copy(identity: bytes, fingerprint: str) -> str:
    """Return the name of the copy of a folder or a table.

    Args:
      identity: bytes that stay the same when the files change, such as the path of the folder.
      fingerprint: hash of the files.
    """
    return f"{_prefix(identity)}{fingerprint}"


def _prefix(identity: bytes) -> str:
    return f"imagefolder_{hashlib.sha256(identity).hexdigest()[:8]}_"


def use(copy: Path) -> bool:
    """Lock a copy, and return whether the copy is complete. No process removes a locked copy while this process
    runs."""
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
    """Remove all copies of a folder or a table, except the copy named `keep` and copies that a process uses."""
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
    """Yield a temporary folder in `root`, and remove it afterwards.

    If this function created `root`, and `root` is empty at the end, remove `root` too.

    Raises:
      UsageError: if `root` cannot be written.
      RunError: if an operating system error occurs while files are written, such as a full disk.
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
        with contextlib.suppress(OSError):  # the folder contains a dataset
            for path in made:
                path.rmdir()


def _locked_temporary(root: Path, name: str) -> tuple[Path, int | None]:
    """Create a temporary folder, and lock it so that no other process removes it."""
    while True:
        work = Path(tempfile.mkdtemp(dir=root, prefix=f".{name}-"))
        lock = _lock(work, exclusive=False)
        if work.exists():
            return work, lock
        if lock is not None:  # another process removed the folder before it was locked
            os.close(lock)


def _lock(folder: Path, exclusive: bool) -> int | None:
    """Lock a folder and return its file descriptor, or None if the lock fails.

    A request for an exclusive lock does not wait: the lock fails if another process has locked the folder. The kernel
    releases a lock when its process ends or is killed.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
    except OSError:  # the folder is in use, or its file system has no locks
        os.close(descriptor)
        return None
    return descriptor


class Writer:
    """Write the records of a TFDS dataset, and then its metadata files.

    Args:
      folder: folder of the dataset, which is created.
      name: name of the dataset.
      class_names: name of each class, in the order of the labels.
    """

    def __init__(self, folder: Path, name: str, class_names: tuple[str, ...]):
        # Imports in other threads fail while TFDS is imported, and threads that decode images import parts of Pillow.
        # Import TFDS before these threads start.
        import tensorflow_datasets  # noqa: F401

        folder.mkdir(parents=True)
        self._folder, self._name, self._class_names = folder, name, class_names
        self._writers: dict[str, Any] = {}
        self._counts, self._bytes = collections.Counter[str](), collections.Counter[str]()
        for split in ("train", "test"):
            self._open(split)

    def _open(self, split: str) -> Any:
        """Return the writer of a split. The file of "validation" is created only if a validation example is written."""
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
    """Move a complete copy from `work` to its final path. Do nothing if another process has written the same copy."""
    name = copy.parent
    try:
        (work / name.name).rename(name)
    except OSError:
        if (copy / "dataset_info.json").exists():
            return
        shutil.rmtree(copy, ignore_errors=True)  # remains of a copy that was removed incompletely
        (work / name.name / copy.name).rename(copy)
