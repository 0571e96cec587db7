"""`imagefolder:PATH`: a folder with one folder of images for each class, converted to ArrayRecord once.

Two layouts are accepted:

- PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg; `val`, `valid` or `validation` may take the place of `test`.
- PATH/CLASS/*.jpg. About one fifth of the images become the test split, selected by a hash of the class and file names.

Only regular files inside PATH are read; links that lead out of PATH are ignored. The name of the converted dataset
contains a hash of the names, sizes and modification times of the files, so a changed folder is converted again.
"""

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxcnn.data import decode
from jaxcnn.errors import UsageError
from jaxcnn.local_path import local_path

PREFIX = "imagefolder:"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
TEST_FOLDERS = ("test", "val", "valid", "validation")
IMAGES_PER_TEST_IMAGE = 5  # without a test folder, one of this many images belongs to the test split
MAX_FILE_BYTES = 100_000_000

Splits = Mapping[str, list[tuple[Path, str]]]


def prepare(path: str, root: Path) -> Path:
    """Convert the images in `path` to a dataset below `root`, unless that was done before.

    Args:
      path: folder of images, without the prefix "imagefolder:".
      root: folder of prepared datasets.

    Returns:
      The folder of the prepared dataset.

    Raises:
      UsageError: `path` has none of the accepted layouts or has damaged images, or `root` cannot be written.
    """
    folder = local_path("imagefolder", path or ".")
    if not path or not folder.is_dir():
        raise UsageError(
            f"{PREFIX}{path} is not a folder. Give a folder that contains one folder of images for each class, or "
            "train and test folders with these."
        )
    folder = folder.resolve()
    splits = find(folder)
    name = f"imagefolder_{fingerprint(folder, splits)}"
    target = root / name / "1.0.0"
    if not (target / "dataset_info.json").exists():
        _check_images(folder, splits)
        try:
            root.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(dir=root, prefix=f".{name}-"))
        except OSError as error:
            raise UsageError(
                f"cannot write to {root}: {error.strerror or error}. Choose another folder with --data-dir."
            ) from error
        try:
            _write(folder, splits, name, work)
            target.parent.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):  # another process may have prepared the same dataset first
                (work / name / "1.0.0").rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


def find(folder: Path) -> Splits:
    """Find the images of the splits "train" and "test".

    Returns:
      The path and the class name of each image, by split, in a fixed order.

    Raises:
      UsageError: there are fewer than two classes or no test images, or a class has test images only.
    """
    test = next((name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    if (folder / "train").is_dir() and test is not None:
        splits = {"train": _list_images(folder / "train", folder), "test": _list_images(folder / test, folder)}
    else:
        splits = {"train": [], "test": []}
        for image, label in _list_images(folder, folder):
            # A hash of the name, so that an image stays in its split when others are added.
            name_hash = int(hashlib.sha256(f"{label}/{image.name}".encode()).hexdigest(), 16)
            splits["test" if name_hash % IMAGES_PER_TEST_IMAGE == 0 else "train"].append((image, label))
    classes = {label for _, label in splits["train"]}
    if len(classes) < 2:
        raise UsageError(
            f"{folder} has training images of {len(classes)} classes. Add a folder of images for each of at least two "
            "classes."
        )
    test_only = sorted({label for _, label in splits["test"]} - classes)
    if test_only:
        raise UsageError(f"{folder} has test images but no training images of class {test_only[0]!r}. Add some.")
    if not splits["test"]:
        raise UsageError(f"{folder} has no test images. Add images, or make a train and a test folder.")
    return splits


def _list_images(folder: Path, root: Path) -> list[tuple[Path, str]]:
    """Return the path and the class name of each image in `folder`, sorted; ignore files outside `root`."""
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.is_dir() or entry.name.startswith(".") or not _is_inside(Path(entry.path), root):
            continue
        found += [
            (Path(image.path), entry.name)
            for image in sorted(os.scandir(entry.path), key=lambda image: image.name)
            if image.name.lower().endswith(SUFFIXES) and image.is_file() and _is_inside(Path(image.path), root)
        ]
    return found


def _is_inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root)


def fingerprint(folder: Path, splits: Splits) -> str:
    """Return a hash of the names, sizes and modification times of the images, 16 hexadecimal digits.

    The files are not read.
    """
    digest = hashlib.sha256()
    for split, images in splits.items():
        for image, label in images:
            status = image.stat()
            name = image.relative_to(folder)
            digest.update(f"{split}\0{label}\0{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _check_images(folder: Path, splits: Splits) -> None:
    """Decode every image; raise `UsageError` if any is damaged."""
    damaged = []
    for images in splits.values():
        for image, _ in images:
            try:
                if image.stat().st_size > MAX_FILE_BYTES:
                    raise ValueError(f"larger than {MAX_FILE_BYTES:,} bytes")
                content = image.read_bytes()
                decode.size_of(content)
                decode.decode(content, 3)
            except (ValueError, OSError) as error:
                damaged.append(f"{image.relative_to(folder)} ({error})")
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise UsageError(f"{folder} has damaged images: {damaged[0]}{more}. Remove them.")


def _write(folder: Path, splits: Splits, name: str, work: Path) -> None:
    """Write the dataset below `work`."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    classes = sorted({label for _, label in splits["train"]})
    # Not registered, since TFDS restores the dataset from its files.
    with registered.skip_registration():

        class ImageFolder(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            __module__ = "jaxcnn.data.imagefolder"

            def _info(self) -> tfds.core.DatasetInfo:
                features = {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=classes),
                    "filename": tfds.features.Text(),
                }
                return tfds.core.DatasetInfo(
                    builder=self,
                    description=f"Images of {len(classes)} classes from a folder.",
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {split: self._generate_examples(images) for split, images in splits.items()}

            def _generate_examples(self, images: list[tuple[Path, str]]) -> Iterator[tuple[str, dict[str, Any]]]:
                for image, label in images:
                    key = str(image.relative_to(folder))
                    yield key, {"image": image.read_bytes(), "label": label, "filename": key}

    ImageFolder.name = name
    builder = ImageFolder(data_dir=work, file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
