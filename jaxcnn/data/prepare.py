"""Making a data set: from its authors' files in a folder, offline, or downloaded by TFDS from where they are.

Either way the result is a data set of TFDS, of its name, version and features, kept as ArrayRecord: a plain
`tfds.data_source(name)` reads it. It is written beside its place and moved there in one go, so that what is there is
whole, and a preparation that was cut off is simply made again.
"""

import contextlib
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
from jaxcnn.data._original_sums import CLASS_NAMES
from jaxcnn.data.datasets import BUNDLED_DIR, default_data_dir
from jaxcnn.data.originals import READERS, Source, Split
from jaxcnn.errors import RunError, UsageError, unknown_name

Progress = Callable[[str, int, int], None]
"""Is told the split, how many of its examples are done, and how many there are."""

REACHABLE_SECONDS = 5.0
"""How long a download's host may take to answer at all, before the preparation gives up."""


@dataclass(frozen=True)
class Prepared:
    """A data set that was made.

    Attributes:
      folder: where it is.
      examples: how many examples each split has.
      unverified: files that were read although no sum of them is published.
    """

    folder: Path
    examples: Mapping[str, int]
    unverified: tuple[str, ...] = ()


@quiet_logger("absl", logging.ERROR)  # TFDS reports every file
def prepare(
    name: str,
    source: str | Path | None = None,
    data_dir: str | Path | None = None,
    *,
    verify: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Makes the data set `name` in `data_dir`, from the files in `source` or else downloaded.

    Args:
      name: a TFDS name; from `source`, one of `READERS`.
      source: the folder of the authors' files, packed or not.
      data_dir: the folder of prepared data sets; `default_data_dir()` if not given.
      verify: whether files must have their published sums.
      force: replace the data set if there is one.
      progress: is told how far it has got.

    Raises:
      UsageError: an unknown name, a data set that is there already, files that are missing, damaged or wrong.
      RunError: a download that cannot be made, within seconds if there is no network.
    """
    root = Path(data_dir or default_data_dir()).expanduser()
    if (BUNDLED_DIR / name).is_dir():
        raise UsageError(f"{name} is inside the package already")
    if name.startswith(imagefolder.PREFIX):
        raise UsageError(f"{name} needs no preparation: it is prepared when it is first used")
    stock = _stock(name)
    builder = stock(data_dir=root, file_format="array_record")
    target = Path(builder.data_dir)
    if (target / "dataset_info.json").exists() and not force:
        raise UsageError(f"{name} is prepared already in {target}; --force makes it anew")
    if source is not None and name not in READERS:
        raise UsageError(f"--source is for {', '.join(READERS)}; {name} is made by TFDS's own builder, without it")
    if source is None:
        if name not in READERS:
            return _prepare_by_tfds(name, builder, target)
        with _downloaded(name, builder, root) as folder:
            return _prepare_from(folder, name, builder, target, root, verify, progress)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise UsageError(f"--source {folder} is not a folder; it is where the original files of {name} are")
    return _prepare_from(folder, name, builder, target, root, verify, progress)


def _prepare_from(
    folder: Path, name: str, builder: Any, target: Path, root: Path, verify: bool, progress: Progress | None
) -> Prepared:
    # All that can be wrong with the source is found before anything is written.
    original = Source(folder, name, verify)
    splits = READERS[name](original)
    _check_labels(folder, splits, builder.info.features)
    with in_place(target, root) as work:
        _write(name, splits, work, progress)
    return Prepared(target, {split: len(part.images) for split, part in splits.items()}, tuple(original.unverified))


@contextlib.contextmanager
def in_place(target: Path, root: Path) -> Iterator[Path]:
    """A folder to write in, in which `NAME/VERSION` is made, and moved to `target` at the end if all went well."""
    relative = target.relative_to(root)
    work = None
    try:
        try:
            root.mkdir(parents=True, exist_ok=True)
            # Beside the target, so that moving it into place is one rename in one file system.
            work = Path(tempfile.mkdtemp(dir=root, prefix=f".{relative.parts[0]}-"))
        except OSError as error:
            raise UsageError(f"{root} cannot be written: {error.strerror or error}") from error
        yield work
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rename(work / "replaced")
        (work / relative).rename(target)
    except OSError as error:
        if error.errno is None or isinstance(error, FileNotFoundError):
            raise
        raise RunError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _stock(name: str) -> Any:
    """TFDS's own builder class of this data set."""
    import tensorflow_datasets as tfds

    base = name.split("/")[0]
    try:
        stock = tfds.builder_cls(base)
    except (ValueError, tfds.core.DatasetNotFoundError, ImportError) as error:
        raise unknown_name("data set", name, {*READERS, *tfds.list_builders(with_community_datasets=False)}) from error
    if "/" in name:
        config = name.split("/", 1)[1]
        return lambda **arguments: stock(config=config, **arguments)
    return stock


def _check_labels(folder: Path, splits: Mapping[str, Split], features: Any) -> None:
    for split, part in splits.items():
        for name, labels in part.labels.items():
            if len(labels) and labels.max() >= features[name].num_classes:
                last = features[name].num_classes - 1
                raise UsageError(
                    f"the {split} files in {folder} have the {name} {labels.max()}; the last class is {last}"
                )


def _write(name: str, splits: Mapping[str, Split], work: Path, progress: Progress | None) -> None:
    """Writes the data set below `work`, as TFDS's builder of this name would from the same files."""
    import tensorflow_datasets as tfds
    from PIL import Image
    from tensorflow_datasets.core import registered

    stock: Any = _stock(name)
    # Unregistered: the name is taken, and the data set is to be read by the stock builder.
    with registered.skip_registration():

        class FromFiles(stock):
            """The stock builder, with examples from memory in place of a download."""

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                for feature, names in CLASS_NAMES.get(name, {}).items():
                    self.info.features[feature].names = list(names)
                return {split: self._generate_examples(split, part) for split, part in splits.items()}

            def _generate_examples(self, split: str, part: Split) -> Iterator[tuple[int, dict[str, Any]]]:
                has_id, digits = "id" in self.info.features, 6 if name == "svhn_cropped" else 5
                for index, image in enumerate(part.images):
                    # A PIL image, since TFDS encodes arrays with TensorFlow.
                    example: dict[str, Any] = {
                        "image": Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
                    }
                    example |= {feature: int(labels[index]) for feature, labels in part.labels.items()}
                    if has_id:
                        example["id"] = f"{split}_{index:0{digits}d}"
                    yield index, example
                    if progress is not None:
                        progress(split, index + 1, len(part.images))

    FromFiles.name = stock.name
    FromFiles.__module__ = stock.__module__  # which is recorded in the data set
    FromFiles.__qualname__ = FromFiles.__name__ = stock.__name__
    builder = FromFiles(data_dir=work, file_format="array_record")
    # What TFDS prints, progress bars included, names the temporary folder. Its errors are exceptions.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))


@contextlib.contextmanager
def _downloaded(name: str, builder: Any, root: Path) -> Iterator[Path]:
    """A folder with the authors' files under their own names; what was downloaded once is kept in `root`/downloads."""
    import tensorflow_datasets as tfds

    urls = {info.filename: url for url, info in builder.url_infos.items()}
    _require_answer(name, next(iter(urls.values())))
    # TFDS compares what it downloads with its own list of sums.
    manager = tfds.download.DownloadManager(
        download_dir=root / "downloads", url_infos=builder.url_infos, force_checksums_validation=True
    )
    try:
        paths: Any = manager.download(urls)
    except Exception as error:  # of the network, of the disk, or a wrong sum
        raise RunError(f"{name} cannot be downloaded: {_one_line(error)}; the same command goes on") from error
    with tempfile.TemporaryDirectory() as folder:
        for filename, path in paths.items():
            (Path(folder) / filename).symlink_to(path)
        yield Path(folder)


def _prepare_by_tfds(name: str, builder: Any, target: Path) -> Prepared:
    """Has TFDS's own builder make a data set whose original files are unknown here."""
    import tensorflow_datasets as tfds

    if importlib.util.find_spec("tensorflow") is None:
        raise UsageError(
            f"{name} is made by TFDS's own builder, which needs TensorFlow: pip install tensorflow; without it, "
            f"prepare is for {', '.join(READERS)}"
        )
    if builder.url_infos:
        _require_answer(name, next(iter(builder.url_infos)))
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # of the network, of the disk, files that must be put in a folder by hand
        raise RunError(f"{name} cannot be prepared: {_one_line(error)}") from error
    return Prepared(target, {split: info.num_examples for split, info in builder.info.splits.items()})


def _require_answer(name: str, url: str) -> None:
    """Raises `RunError` if nothing answers at `url` within seconds: TFDS would keep trying for ten minutes."""
    answered: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACHABLE_SECONDS):
                answered.append(True)
        except urllib.error.HTTPError as error:
            # A server that does not know the question is there; a proxy that lets nothing through is not it.
            answered.append(error.code < 500 and error.code not in (403, 407))
        except OSError:
            answered.append(False)

    # In a thread, because looking a name up has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACHABLE_SECONDS + 1)
    if answered != [True]:
        how = f"; with its files in a folder: jaxcnn prepare {name} --source DIR" if name in READERS else ""
        host = urllib.parse.urlsplit(url).hostname
        raise RunError(f"{name} cannot be downloaded: {host} does not answer within {REACHABLE_SECONDS:g} s{how}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
