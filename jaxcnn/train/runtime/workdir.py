"""Lock the run directory, so that only one process trains in it at a time, and replace its files atomically."""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxcnn.data.datasets import split_name
from jaxcnn.errors import RunError, UsageError
from jaxcnn.local_path import local_folder, local_path
from jaxcnn.train.config import Config, differences, from_dict, to_dict
from jaxcnn.train.config.compare import without_settings
from jaxcnn.train.runtime import sealed

CONFIG = "config.json"
RESULT = "result.json"
METRICS = "metrics.jsonl"
CURVES = "curves.png"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"
SEALED = (CONFIG, "preprocessing.json", "data.json", RESULT)
"""Files of a run directory that store the identity of the run."""

REMEDIES = {
    CONFIG: "Restore the file.",
    RESULT: "Remove the file and run the same command again, which writes a new file.",
}
"""Sentences for error messages that say how to repair a damaged file."""

# Fields of `result.json` that every version writes, and that this version prints or returns.
RESULT_TEXTS = ("model", "dataset", "device_kind", "parallel")
RESULT_NUMBERS = (
    *("test_examples", "params", "steps", "epochs"),
    *("batch_size", "images_per_second", "seconds", "compile_seconds", "devices"),
)
LATER_RESULT_NUMBERS = ("first_batch_seconds", "data_wait")
"""Numbers that version 0.1 did not write to `result.json`."""
RESULT_METRICS = ("test_accuracy", "test_loss", "train_accuracy", "train_loss")
"""Numbers in `result.json` that are None if the task does not have the metric."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an `OSError` while writing to `path`, such as a full disk, to a `RunError` with a one-line message.

    Raises:
      RunError: if the block raises an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}. Checkpoints are kept.") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file to write. At the end of the block, the file atomically replaces `path`.

    A reader of `path` sees either the old file or the new file, even after a power failure.
    """
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        temporary.unlink(missing_ok=True)  # a file that a killed process has left, or a link
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Force the content of a file, or the file names in a folder, to the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file. If the file exists, replace it atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path: Path, remedy: str = "Restore the file.") -> Any:
    """Return the value in a JSON file.

    Args:
      path: path of the file.
      remedy: a sentence for error messages that says how to repair a damaged file.

    Raises:
      UsageError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # a byte-order mark is ignored
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist. Give the directory of a run.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}. {remedy}") from error
    except RecursionError:
        raise UsageError(f"{path} is damaged: its JSON is nested too deeply. {remedy}") from None
    except ValueError as error:
        raise UsageError(f"{path} is damaged: the file is not valid JSON ({error}). {remedy}") from error


def write_sealed(path: Path, values: dict[str, Any]) -> None:
    """Write a file of a run directory with a checksum and the identity of the run; see `sealed`."""
    write_json(path, sealed.seal(values, run_of(path.parent)))


def read_sealed(path: Path, remedy: str | None = None) -> sealed.Sealed:
    """Return the content of a file that `write_sealed` wrote, in this version or in an earlier version.

    Args:
      path: path of the file.
      remedy: a sentence for error messages that says how to repair a damaged file. Default: the sentence in `REMEDIES`.

    Raises:
      UsageError: if the file is missing or damaged, or if it belongs to another run.
    """
    remedy = remedy or REMEDIES.get(path.name, "Restore the file.")
    found = sealed.unseal(path, read_json(path, remedy), remedy)
    run = run_of(path.parent)
    if found.is_checked and found.run != run and run is not None:
        raise UsageError(f"{path} belongs to another run than {CONFIG} in the same folder. {remedy}")
    return found


def note_on_unchecked(folder: Path, names: Sequence[str]) -> str | None:
    """Return a note that lists the files without a checksum among `names`, or None if all files have a checksum."""
    found = [name for name in names if (folder / name).exists() and not read_sealed(folder / name).is_checked]
    if not found:
        return None
    which = f"{' and '.join(found)} in {folder}"
    return f"{which} cannot be checked for damage: no sha256, since an earlier version wrote the file or it was edited"


def run_of(folder: Path) -> str | None:
    """Return the identity of the run in a directory, or None if `config.json` does not store an identity."""
    try:
        stored = read_json(folder / CONFIG)
    except UsageError:
        return None
    run = stored.get(sealed.RUN) if isinstance(stored, dict) else None
    return run if isinstance(run, str) else None


def stored_config(folder: Path) -> dict[str, Any]:
    """Return the configuration in a run directory as a dict of JSON values.

    Raises:
      UsageError: if `config.json` is missing or damaged.
    """
    return read_sealed(folder / CONFIG).values


def with_absolute_paths(config: Config) -> Config:
    """Return the configuration with absolute paths of the data, so that the run can be used from any directory."""
    data_dir = None if config.data_dir is None else _absolute("data_dir", config.data_dir)
    return dataclasses.replace(config, dataset=_absolute_dataset(config.dataset), data_dir=data_dir)


def _absolute_dataset(name: str) -> str:
    prefix, path = split_name(name)
    return prefix + _absolute("dataset", path) if prefix and path else name


def _absolute(name: str, path: str) -> str:
    return os.path.abspath(local_path(name, path))


def is_run_on(folder: Path, dataset: str) -> bool:
    """Return whether a run directory contains a run on the dataset `dataset`. A path in this name is absolute."""
    if not (folder / CONFIG).exists():
        return False
    name = stored_config(folder).get("dataset")
    return isinstance(name, str) and _absolute_dataset(name) == dataset


@contextlib.contextmanager
def claim(config: Config) -> Iterator[Path]:
    """Create and lock the run directory for this process, write `config.json`, and yield the directory.

    If the directory contains a run with the same configuration, the run is resumed. If `config.workdir` is None, the
    first of `runs/MODEL-DATASET-1`, `runs/MODEL-DATASET-2`, ... that does not exist is created.

    Raises:
      UsageError: if the directory contains another run or other files, cannot be written, or if another process is
        training in it. For another run, the error message lists the fields that differ.
    """
    with contextlib.ExitStack() as held:
        try:
            if config.workdir is None:
                workdir = _next_free(config)
            else:
                workdir = local_folder("workdir", config.workdir)
                workdir.mkdir(parents=True, exist_ok=True)
            held.enter_context(exclusive(workdir))
            if (workdir / CONFIG).exists():
                _check_same_run(workdir, config)
            elif any((workdir / name).exists() for name in (CHECKPOINTS, METRICS, RESULT)):
                raise UsageError(f"{workdir / CONFIG} is missing. Restore the file, or choose another --workdir.")
            elif any(not path.name.startswith(".") for path in workdir.iterdir()):
                raise UsageError(f"{workdir} is not empty and holds no run. Choose another --workdir.")
            else:
                values = to_dict(config)
                write_json(workdir / CONFIG, sealed.seal(values, sealed.identity(without_settings(values))))
        except OSError as error:
            raise UsageError(f"workdir {config.workdir or 'runs'} cannot be written: {error.strerror}") from error
        yield workdir


def _check_same_run(workdir: Path, config: Config) -> None:
    """Check that the run directory contains a run with this configuration.

    If the run is finished, the configuration may ask for more epochs or steps.

    Raises:
      UsageError: if the directory contains another run. The error message lists the fields that differ.
    """
    stored, wanted = stored_config(workdir), to_dict(config)
    _config(workdir, stored)
    # Version 0.1 stored the path of a folder as the user gave it, which may be relative.
    stored["dataset"] = _absolute_dataset(stored["dataset"])
    changed = differences(stored, wanted)
    if not changed:
        return
    longer = {**stored, "epochs": wanted["epochs"], "steps": wanted["steps"]}
    if (workdir / RESULT).exists() and not differences(longer, wanted) and _is_longer(stored, wanted):
        return
    for name in SEALED:
        if (workdir / name).exists():
            read_sealed(workdir / name)  # raises an error if `config.json` was copied from another run
    raise UsageError(f"{workdir} holds another run ({'; '.join(changed)}). Choose another --workdir.")


def write_config(workdir: Path, config: Config) -> None:
    """Write `config.json` if its configuration differs from `config`, or if it has no checksum."""
    wanted, stored = to_dict(config), read_sealed(workdir / CONFIG)
    if differences(stored.values, wanted) or not stored.is_checked:
        write_sealed(workdir / CONFIG, wanted)


def _is_longer(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether the configuration `new` asks for more epochs or more steps than the configuration `old`."""
    if old.get("steps") is None and new["steps"] is None:
        return isinstance(old.get("epochs"), int | float) and new["epochs"] > old["epochs"]
    return isinstance(old.get("steps"), int) and new["steps"] is not None and new["steps"] > old["steps"]


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder for this process. The operating system releases the lock when the process ends or is killed.

    Raises:
      UsageError: if another process holds the lock. The error message names the process and its host.
    """
    path = folder / LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace") or "another process"
            os.close(file)
            raise UsageError(
                f"{folder} is in use by {holder}. Wait until that process ends, or choose another --workdir."
            ) from None
        # The previous holder may have removed the lock file between `os.open` and `flock`: then try again.
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            break
        os.close(file)
    try:
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # if the folder is missing or read-only, `close` releases the lock
            if os.path.samestat(os.fstat(file), path.stat()):  # do not remove a lock file of another process
                path.unlink()
        os.close(file)


@contextlib.contextmanager
def reserved(config: Config) -> Iterator[Path]:
    """Yield the path of the run directory before the run starts. A supervisor passes this path to `claim` as `workdir`.

    If `config.workdir` is None, create a new directory, and remove it at the end of the block if it is still empty.

    Raises:
      UsageError: if the directory cannot be written.
    """
    if config.workdir is not None:
        yield local_folder("workdir", config.workdir)
        return
    try:
        folder = _next_free(config)
    except OSError as error:
        raise UsageError(
            f"folder runs cannot be written: {error.strerror}. Choose another folder with --workdir."
        ) from error
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # the run directory is not empty
            folder.rmdir()
            folder.parent.rmdir()


def _next_free(config: Config) -> Path:
    """Create the first of `runs/MODEL-DATASET-1`, `runs/MODEL-DATASET-2`, ... that does not exist, and return it."""
    folder, name, number = Path("runs"), f"{model_name(config.model)}-{short_name(config.dataset)}", 1
    while True:
        try:
            (folder / f"{name}-{number}").mkdir(parents=True)
            return folder / f"{name}-{number}"
        except FileExistsError:
            if not (folder / f"{name}-{number}").is_dir():
                raise
            number += 1


def model_name(model: str) -> str:
    """Return the name of an architecture, or the class of a custom model, for use in a file name.

    >>> model_name("resnet50"), model_name("custom:package.nets.TinyNet(width=8)")
    ('resnet50', 'TinyNet')
    """
    name = model.removeprefix("custom:").partition("(")[0].rpartition(".")[2]
    return name if name.isidentifier() else "model"


def short_name(dataset: str) -> str:
    """Return the name of a dataset for use in a file name.

    >>> short_name("emnist/letters"), short_name("imagefolder:/data/pets/"), short_name("csv:cats.csv")
    ('emnist_letters', 'pets', 'cats')
    """
    kind, colon, rest = dataset.partition(":")
    if not colon:
        return dataset.replace("/", "_")
    name = Path(rest).name if kind == "imagefolder" else Path(rest).stem
    return rest if kind == "custom" else name or "images"


def read_result(workdir: Path) -> dict[str, Any]:
    """Return the values of `result.json` in a run directory.

    Raises:
      UsageError: if `result.json` is missing or damaged.
    """
    values = read_sealed(workdir / RESULT).values
    texts = all(isinstance(values.get(name), str) for name in RESULT_TEXTS)
    texts = texts and isinstance(values.get("stopped") or "", str)
    numbers = [values.get(name) for name in RESULT_NUMBERS]
    numbers += [values.get(name, 0.0) for name in LATER_RESULT_NUMBERS]
    numbers += [values.get(name) for name in RESULT_METRICS if name not in _undefined(values)]
    if texts and all(isinstance(x, int | float) and not isinstance(x, bool) for x in numbers):
        return values
    raise UsageError(f"{workdir / RESULT} is damaged: a value is missing or wrong. {REMEDIES[RESULT]}")


def _undefined(values: dict[str, Any]) -> set[str]:
    """Return the names of numbers that may be None, since the task lacks the metric or rows of metrics were lost."""
    metrics = values.get("metrics")
    if not isinstance(metrics, dict):  # a result.json of version 0.1
        return set()
    absent = {name for name in RESULT_METRICS if values.get(name, "") is None}
    return {name for name in absent if name.startswith("train_") or name.partition("_")[2] not in metrics}


def read_config(workdir: Path) -> Config:
    """Return the configuration of the run in this directory.

    Raises:
      UsageError: if `config.json` is missing or damaged.
    """
    if not workdir.is_dir():
        raise UsageError(f"{workdir} does not exist. Give the directory of a run as --workdir.")
    return _config(workdir, stored_config(workdir))


def _config(workdir: Path, stored: dict[str, Any]) -> Config:
    """Convert the stored dict of a run directory to a `Config`. Raise `UsageError` if the dict is not valid."""
    try:
        return from_dict(stored)
    except UsageError as error:
        raise UsageError(f"{workdir / CONFIG} is damaged: {error}. {REMEDIES[CONFIG]}") from error
