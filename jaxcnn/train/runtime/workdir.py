"""The run directory: one run at a time holds it, and its files are replaced as a whole."""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxcnn.data.datasets import split_name
from jaxcnn.errors import RunError, UsageError
from jaxcnn.local_path import local_folder, local_path
from jaxcnn.train.config import Config, differences, from_dict, to_dict

CONFIG = "config.json"
RESULT = "result.json"
METRICS = "metrics.jsonl"
CURVES = "curves.png"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"

# Values of `result.json` that are printed or returned, in results of every version.
RESULT_TEXTS = ("model", "dataset", "device_kind", "parallel")
RESULT_NUMBERS = (
    *("test_examples", "params", "steps", "epochs"),
    *("batch_size", "images_per_second", "seconds", "compile_seconds", "devices"),
)
LATER_RESULT_NUMBERS = ("first_batch_seconds", "data_wait")
"""Numbers that results of version 0.1 do not have."""
RESULT_METRICS = ("test_accuracy", "test_loss", "train_accuracy", "train_loss")
"""Numbers that are None of a task without them."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of writing to `path`, such as a full disk, into one line.

    Raises:
      RunError: in place of any `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}. Checkpoints are kept.") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file to write, which atomically replaces `path` at the end of the block.

    A reader of `path` sees the old file or the new one, even after a power failure.
    """
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, which atomically replaces an existing one."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
      UsageError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # a byte-order mark is ignored
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist. Give the directory of a run.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


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
    """Return whether a directory has the configuration of a run on this dataset (with an absolute path)."""
    if not (folder / CONFIG).exists():
        return False
    stored = read_json(folder / CONFIG)
    name = stored.get("dataset") if isinstance(stored, dict) else None
    return isinstance(name, str) and _absolute_dataset(name) == dataset


@contextlib.contextmanager
def claim(config: Config) -> Iterator[Path]:
    """Give the run directory, with its `config.json` in place, and hold it for this process.

    The directory is created if it does not exist. One that contains a run of the same configuration is used to resume
    that run. Without a `workdir` it is the first free one of `runs/MODEL-DATASET-1`, `-2`, ...

    Raises:
      UsageError: if the directory contains another run (the differing fields are named) or other files, if another
        process is training in it, or if it cannot be written.
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
            elif any(not path.name.startswith(".") for path in workdir.iterdir()):
                raise UsageError(f"{workdir} is not empty and holds no run. Choose another --workdir.")
            else:
                write_json(workdir / CONFIG, to_dict(config))
        except OSError as error:
            raise UsageError(f"workdir {config.workdir or 'runs'} cannot be written: {error.strerror}") from error
        yield workdir


def _check_same_run(workdir: Path, config: Config) -> None:
    """Check that the run directory holds the run of this configuration.

    A finished run may get more steps; see `write_config`.

    Raises:
      UsageError: if it holds another run; the differing fields are named.
    """
    stored, wanted = read_json(workdir / CONFIG), to_dict(config)
    if isinstance(stored, dict) and isinstance(stored.get("dataset"), str):
        # Version 0.1 stored the path of a folder as it was typed.
        stored["dataset"] = _absolute_dataset(stored["dataset"])
    changed = differences(stored, wanted)
    if not changed:
        return
    longer = {**stored, "epochs": wanted["epochs"], "steps": wanted["steps"]} if isinstance(stored, dict) else {}
    if (workdir / RESULT).exists() and not differences(longer, wanted) and _is_longer(stored, wanted):
        return
    raise UsageError(f"{workdir} holds another run ({'; '.join(changed)}). Choose another --workdir.")


def write_config(workdir: Path, config: Config) -> None:
    """Store the configuration of a run, unless the one that is stored is the same run."""
    wanted = to_dict(config)
    if differences(read_json(workdir / CONFIG), wanted):
        write_json(workdir / CONFIG, wanted)


def _is_longer(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether a configuration asks for more epochs, or for more steps, than another one."""
    if old.get("steps") is None and new["steps"] is None:
        return isinstance(old.get("epochs"), int | float) and new["epochs"] > old["epochs"]
    return isinstance(old.get("steps"), int) and new["steps"] is not None and new["steps"] > old["steps"]


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder for this process. The kernel releases the lock when the process ends, even if it is killed.

    Raises:
      UsageError: if another process holds the lock; it is named.
    """
    path = folder / LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace") or "another process"
            os.close(file)
            raise UsageError(f"{folder} is in use by {holder}. Wait for it, or choose another --workdir.") from None
        # The former holder may have removed the file after it was opened here and before it was locked.
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            break
        os.close(file)
    try:
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


@contextlib.contextmanager
def reserved(config: Config) -> Iterator[Path]:
    """Give the directory to pass to `claim` as `workdir`, for a supervisor, which must know it before the run starts.

    A directory that is created here is removed at the end of the block if it is still empty.

    Raises:
      UsageError: if it cannot be written.
    """
    if config.workdir is not None:
        yield local_folder("workdir", config.workdir)
        return
    try:
        folder = _next_free(config)
    except OSError as error:
        raise UsageError(f"workdir runs cannot be written: {error.strerror}") from error
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # usually it is not empty
            folder.rmdir()
            folder.parent.rmdir()


def _next_free(config: Config) -> Path:
    """Create and return the first of `runs/MODEL-DATASET-1`, `-2`, ... that does not exist."""
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
    """Return the values of the `result.json` of a run.

    Raises:
      UsageError: if it is damaged.
    """
    path = workdir / RESULT
    values = read_json(path)
    if isinstance(values, dict):
        texts = all(isinstance(values.get(name), str) for name in RESULT_TEXTS)
        texts = texts and isinstance(values.get("stopped") or "", str)
        numbers = [values.get(name) for name in RESULT_NUMBERS]
        numbers += [values.get(name, 0.0) for name in LATER_RESULT_NUMBERS]
        numbers += [values.get(name) for name in RESULT_METRICS if name not in _undefined(values)]
        if texts and all(isinstance(x, int | float) and not isinstance(x, bool) for x in numbers):
            return values
    raise UsageError(f"{path} is damaged. Remove it, and the same command writes it again.")


def _undefined(values: dict[str, Any]) -> set[str]:
    """Return the names of numbers that the run's task does not have, so that they are None."""
    metrics = values.get("metrics")
    if not isinstance(metrics, dict):  # a result of version 0.1
        return set()
    return {name for name in RESULT_METRICS if name.partition("_")[2] not in metrics and values.get(name, "") is None}


def read_config(workdir: Path) -> Config:
    """Return the configuration of the run in this directory.

    Raises:
      UsageError: if there is none.
    """
    if not workdir.is_dir():
        raise UsageError(f"{workdir} does not exist. Give the directory of a run as --workdir.")
    return from_dict(read_json(workdir / CONFIG))
