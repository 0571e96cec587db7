"""Prepare datasets: from original files in a folder, without a network, or from files that TFDS downloads.

The result is a TFDS dataset in ArrayRecord files, with the name, version and features of the TFDS builder.
`tfds.data_source(name)` can therefore read the dataset. The dataset is written to a temporary folder and moved into
place when it is complete. After an interruption, prepare the dataset again.
"""

import collections
import contextlib
import functools
import importlib.util
import io
import logging
import shutil
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcnn._scoped import quiet_logger
from jaxcnn.data import imagefolder
from jaxcnn.data.datasets import data_folder, is_bundled
from jaxcnn.data.preparation._original_checksums import CLASS_NAMES
from jaxcnn.data.preparation.originals import READERS, Source, Split
from jaxcnn.errors import RunError, UsageError, unknown_name
from jaxcnn.local_path import local_path

Progress = Callable[[str, int, int], None]
"""Function that is called with the split, the number of examples written, and the total number of examples."""

REACHABLE_SECONDS = 5.0
"""Maximum seconds to wait for an answer of the download server."""


@dataclass(frozen=True)
class Prepared:
    """Result of a preparation.

    Attributes:
      folder: folder of the dataset.
      examples: number of examples in each split.
      unverified: names of the original files that have no published checksum.
      notes: lines for the user about the images that were found.
    """

    folder: Path
    examples: Mapping[str, int]
    unverified: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@quiet_logger("absl", logging.ERROR)  # TFDS logs every file
def prepare(
    name: str,
    source: str | Path | None = None,
    data_dir: str | Path | None = None,
    *,
    verify: bool = True,
    force: bool = False,
    skip_damaged: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Prepare a dataset from original files, from files that TFDS downloads, or from a folder or a table of images.

    Args:
      name: TFDS name, "imagefolder:PATH" or "csv:FILE". If `source` is given, the name must be in `READERS`.
      source: folder of the original files, compressed or not. Default: TFDS downloads the files.
      data_dir: folder of prepared datasets. Default: `$TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
      verify: whether to require the published checksums of the original files.
      force: whether to replace an existing dataset.
      skip_damaged: whether to skip damaged images of a folder or a table. By default, damaged images raise an error.
      progress: function that reports the progress.

    Raises:
      UsageError: if the name is unknown, the dataset exists and `force` is False, or a file is missing, damaged or not
        the original.
      RunError: if the download fails. Without a network, this error is raised after a few seconds.
    """
    root = data_folder(data_dir)
    if is_bundled(name):
        raise UsageError(f"dataset needs no preparation: {name}. The jaxcnn package contains this dataset.")
    if imagefolder.is_name(name):
        if source is not None or force:
            flag = "--force" if source is None else "--source"
            raise UsageError(
                f"{flag} does not apply to {name}. Omit {flag}. When the images change, jaxcnn copies the images again."
            )
        return _prepare_images(name, root, skip_damaged, progress)
    if skip_damaged:
        raise UsageError(
            f"--skip-damaged does not apply to {name}. Use this flag with {imagefolder.PREFIX}PATH or "
            f"{imagefolder.CSV_PREFIX}FILE."
        )
    builder = _builder_class(name)(data_dir=root, file_format="array_record")
    target = Path(builder.data_dir)
    if (target / "dataset_info.json").exists() and not force:
        raise UsageError(f"dataset {name!r} already exists: {target}. Replace the dataset with --force.")
    if source is not None and name not in READERS:
        raise UsageError(
            f"--source does not support {name}. Omit --source, or choose one of the datasets {', '.join(READERS)}."
        )
    if source is None:
        if name not in READERS:
            return _prepare_by_tfds(name, builder, target)
        with _downloaded(name, builder, root) as folder:
            return _prepare_from(folder, name, builder, target, root, verify, progress)
    folder = local_path("--source", source)
    if not folder.is_dir():
        raise UsageError(f"--source is not a folder: {folder}. Give the folder of the original files of {name}.")
    return _prepare_from(folder, name, builder, target, root, verify, progress)


def _prepare_images(name: str, root: Path, skip_damaged: bool, progress: Progress | None) -> Prepared:
    prepared = imagefolder.prepare_named(name, root, skip_damaged=skip_damaged, progress=progress)
    examples = collections.Counter[str]()
    for splits in imagefolder.inventory(prepared.directory)["classes"].values():
        examples.update({split: part["files"] for split, part in splits.items()})
    return Prepared(prepared.directory, examples, notes=prepared.notes)


def _prepare_from(
    folder: Path, name: str, builder: Any, target: Path, root: Path, verify: bool, progress: Progress | None
) -> Prepared:
    # Read all files before anything is written, so that errors in the source files leave no trace.
    original = Source(folder, name, verify)
    splits = READERS[name](original)
    _check_labels(folder, splits, builder.info.features)
    with in_place(target, root) as work:
        _write(name, splits, work, progress)
    return Prepared(target, {split: len(part.images) for split, part in splits.items()}, tuple(original.unverified))


@contextlib.contextmanager
def in_place(target: Path, root: Path) -> Iterator[Path]:
    """Yield a temporary folder. If the body of the `with` succeeds, move `NAME/VERSION` from this folder to `target`.

    Raises:
      UsageError: if `root` cannot be written.
      RunError: if the disk is full, or another operating system error occurs.
    """
    relative = target.relative_to(root)
    work = None
    try:
        try:
            root.mkdir(parents=True, exist_ok=True)
            # Create the folder in the file system of the target, so that one rename moves the dataset into place.
            work = Path(tempfile.mkdtemp(dir=root, prefix=f".{relative.parts[0]}-"))
        except OSError as error:
            raise UsageError(
                f"cannot write to {root}: {error.strerror or error}. Choose another folder with --data-dir."
            ) from error
        yield work
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rename(work / "replaced")
        (work / relative).rename(target)
    except OSError as error:
        if error.errno is None or isinstance(error, FileNotFoundError):
            raise
        raise RunError(f"cannot write {target}: {error.strerror}. Free space, or use another --data-dir.") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _builder_class(name: str) -> Any:
    """Return the TFDS builder class of a dataset, with the configuration that the name contains, if any."""
    import tensorflow_datasets as tfds

    base = name.split("/")[0]
    try:
        if not base.isidentifier():  # TFDS would search outside TFDS for such a name
            raise ValueError
        builder_class = tfds.builder_cls(base)
    except (ValueError, tfds.core.DatasetNotFoundError, ImportError) as error:
        raise unknown_name("dataset", name, {*READERS, *tfds.list_builders(with_community_datasets=False)}) from error
    if "/" not in name:
        return builder_class
    config, known = name.split("/", 1)[1], [config.name for config in builder_class.BUILDER_CONFIGS]
    if not known:
        raise UsageError(f"dataset {base!r} has no configurations: {name!r}. Write {base!r}.")
    if config not in known:
        raise unknown_name(f"configuration of {base}", config, known)
    return functools.partial(builder_class, config=config)


def _check_labels(folder: Path, splits: Mapping[str, Split], features: Any) -> None:
    for split, part in splits.items():
        for name, labels in part.labels.items():
            if len(labels) and labels.max() >= features[name].num_classes:
                last = features[name].num_classes - 1
                raise UsageError(
                    f"the {split} files in {folder} have a {name} out of range: {labels.max()}. "
                    f"Use values from 0 to {last}."
                )


def _write(name: str, splits: Mapping[str, Split], work: Path, progress: Progress | None) -> None:
    """Write the dataset below `work`, in the same way as the TFDS builder of this name."""
    import tensorflow_datasets as tfds
    from PIL import Image
    from tensorflow_datasets.core import registered

    builder_class: Any = _builder_class(name)
    # Do not register the class, because the original builder owns the name and will read the dataset.
    with registered.skip_registration():

        class FromFiles(builder_class):
            """The original builder, with examples from memory instead of a download."""

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                for feature, names in CLASS_NAMES.get(name, {}).items():
                    self.info.features[feature].names = list(names)
                return {split: self._generate_examples(split, part) for split, part in splits.items()}

            def _generate_examples(self, split: str, part: Split) -> Iterator[tuple[int, dict[str, Any]]]:
                has_id, digits = "id" in self.info.features, 6 if name == "svhn_cropped" else 5
                for index, image in enumerate(part.images):
                    # Give a PIL image, because TFDS would encode an array with TensorFlow.
                    pixels = image[..., 0] if image.shape[-1] == 1 else image
                    example: dict[str, Any] = {"image": Image.fromarray(pixels)}
                    example |= {feature: int(labels[index]) for feature, labels in part.labels.items()}
                    if has_id:
                        example["id"] = f"{split}_{index:0{digits}d}"
                    yield index, example
                    if progress is not None:
                        progress(split, index + 1, len(part.images))

    FromFiles.name = builder_class.name
    FromFiles.__module__ = builder_class.__module__  # TFDS stores the module name in the dataset
    FromFiles.__qualname__ = FromFiles.__name__ = builder_class.__name__
    builder = FromFiles(data_dir=work, file_format="array_record")
    # Hide the output of TFDS, which would show the temporary folder. Errors are raised as exceptions.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))


@contextlib.contextmanager
def _downloaded(name: str, builder: Any, root: Path) -> Iterator[Path]:
    """Yield a folder of the original files under their original names. Downloads are cached in `root`/downloads."""
    import tensorflow_datasets as tfds

    urls = {info.filename: url for url, info in builder.url_infos.items()}
    _require_reachable(name, next(iter(urls.values())))
    # TFDS compares the downloads with its own checksums.
    manager = tfds.download.DownloadManager(
        download_dir=root / "downloads", url_infos=builder.url_infos, force_checksums_validation=True
    )
    try:
        paths: Any = manager.download(urls)
    except Exception as error:  # network, disk and checksum errors have no common type
        raise RunError(
            f"cannot download {name}: {_one_line(error)}. Run the same command again to continue the download."
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        for filename, path in paths.items():
            (Path(folder) / filename).symlink_to(path)
        yield Path(folder)


def _prepare_by_tfds(name: str, builder: Any, target: Path) -> Prepared:
    """Prepare a dataset that is not in `READERS` with its TFDS builder."""
    import tensorflow_datasets as tfds

    if importlib.util.find_spec("tensorflow") is None:
        raise UsageError(
            f"the TFDS builder of {name} needs TensorFlow. Run pip install tensorflow, or choose one of the datasets "
            f"{', '.join(READERS)}."
        )
    if builder.url_infos:
        _require_reachable(name, next(iter(builder.url_infos)))
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # network errors, disk errors and missing manual downloads have no common type
        raise RunError(f"cannot prepare {name}: {_one_line(error)}.") from error
    return Prepared(target, {split: info.num_examples for split, info in builder.info.splits.items()})


def _require_reachable(name: str, url: str) -> None:
    """Raise `RunError` if the server of `url` does not answer within `REACHABLE_SECONDS`.

    Without this check, TFDS would retry for ten minutes.
    """
    reachable: list[bool] = []

    def send_request() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACHABLE_SECONDS):
                reachable.append(True)
        except urllib.error.HTTPError as error:
            # Most 4xx answers come from the server itself. 403 and 407 may come from a proxy that blocks the request.
            reachable.append(error.code < 500 and error.code not in (403, 407))
        except OSError:
            reachable.append(False)

    # Send the request in a thread, because a name lookup has no timeout.
    thread = threading.Thread(target=send_request, daemon=True)
    thread.start()
    thread.join(REACHABLE_SECONDS + 1)
    if reachable != [True]:
        host = urllib.parse.urlsplit(url).hostname
        remedy = "Check the network"
        if name in READERS:
            remedy += f", or use files in a folder: jaxcnn prepare {name} --source DIR"
        raise RunError(f"cannot download {name}: {host} does not answer within {REACHABLE_SECONDS:g} s. {remedy}.")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
