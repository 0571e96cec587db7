"""`imagefolder:PATH`: a folder of folders of images, one a class, made into ArrayRecord once.

    PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (or `val`, `valid`, `validation` in place of `test`), or
    PATH/CLASS/*.jpg, of which a fifth of each class, drawn at random but always alike, is the test split.

Only regular files inside PATH are read: a link that leads out of it is not followed. What is made is kept under a name
that follows from the files' names, sizes and times, so that a folder that has changed is made anew.
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

PREFIX = "imagefolder:"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
TEST_FOLDERS = ("test", "val", "valid", "validation")
TEST_SHARE = 5  # one of so many images of a class is a test image where there is no folder of them
MOST_FILE_BYTES = 100_000_000

Splits = Mapping[str, list[tuple[Path, str]]]


def prepare(path: str, root: Path) -> Path:
    """The folder of the prepared data set of the images in `path`; made below `root` if it is not there.

    Raises:
      UsageError: a folder without images in folders of classes, or damaged images, of which the first is named.
    """
    folder = Path(path).expanduser()
    if not path or not folder.is_dir():
        raise UsageError(f"{PREFIX}{path} is not a folder; it has a folder for each class, or train and test with them")
    folder = folder.resolve()
    splits = find(folder)
    name = f"imagefolder_{fingerprint(folder, splits)}"
    target = root / name / "1.0.0"
    if not (target / "dataset_info.json").exists():
        _check(folder, splits)
        try:
            root.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(dir=root, prefix=f".{name}-"))
        except OSError as error:
            raise UsageError(f"{root} cannot be written: {error.strerror or error}") from error
        try:
            _write(folder, splits, name, work)
            target.parent.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):  # another process may have made it meanwhile, and then all is well
                (work / name / "1.0.0").rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


def find(folder: Path) -> Splits:
    """The images of the splits "train" and "test", each with the name of its class, in a fixed order.

    Raises:
      UsageError: no images, fewer than two classes, or classes with test images alone.
    """
    test = next((name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    if (folder / "train").is_dir() and test is not None:
        splits = {"train": _in_classes(folder / "train", folder), "test": _in_classes(folder / test, folder)}
    else:
        splits = {"train": [], "test": []}
        for image, label in _in_classes(folder, folder):
            # By the file's name, so that an image stays in its split when others are added.
            place = int(hashlib.sha256(f"{label}/{image.name}".encode()).hexdigest(), 16)
            splits["test" if place % TEST_SHARE == 0 else "train"].append((image, label))
    classes = {label for _, label in splits["train"]}
    if len(classes) < 2:
        raise UsageError(f"{folder} has images of {len(classes)} classes; it needs a folder for each of two or more")
    strange = sorted({label for _, label in splits["test"]} - classes)
    if strange:
        raise UsageError(f"{folder} has no training images of the class {strange[0]!r}, but test images")
    if not splits["test"]:
        raise UsageError(f"{folder} has no test images; add images, or folders train and test")
    return splits


def _in_classes(folder: Path, root: Path) -> list[tuple[Path, str]]:
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.is_dir() or entry.name.startswith(".") or not _inside(Path(entry.path), root):
            continue
        found += [
            (Path(image.path), entry.name)
            for image in sorted(os.scandir(entry.path), key=lambda image: image.name)
            if image.name.lower().endswith(SUFFIXES) and image.is_file() and _inside(Path(image.path), root)
        ]
    return found


def _inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root)


def fingerprint(folder: Path, splits: Splits) -> str:
    """A name for what the files are, without reading them: their names, sizes and times of change."""
    sum_ = hashlib.sha256()
    for split, images in splits.items():
        for image, label in images:
            status = image.stat()
            name = image.relative_to(folder)
            sum_.update(f"{split}\0{label}\0{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return sum_.hexdigest()[:16]


def _check(folder: Path, splits: Splits) -> None:
    damaged = []
    for images in splits.values():
        for image, _ in images:
            try:
                if image.stat().st_size > MOST_FILE_BYTES:
                    raise ValueError(f"more than {MOST_FILE_BYTES:,} bytes")
                decode.size_of(content := image.read_bytes())
                decode.decode(content, 3)
            except (ValueError, OSError) as error:
                damaged.append(f"{image.relative_to(folder)} ({error})")
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise UsageError(f"{folder} has damaged images: {damaged[0]}{more}; remove them")


def _write(folder: Path, splits: Splits, name: str, work: Path) -> None:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    classes = sorted({label for _, label in splits["train"]})
    # Unregistered: the data set is read from its files.
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
