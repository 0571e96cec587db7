"""The folder of a run: claimed before anything is written, and never half-written."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxcnn.errors import RunError, UsageError
from jaxcnn.train.config import Config, differences, from_dict, to_dict
from jaxcnn.train.runtime._lock import exclusive

CONFIG = "config.json"
RESULT = "result.json"
METRICS = "metrics.jsonl"
CURVES = "curves.png"
CHECKPOINTS = "checkpoints"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around writes to `path` while a run is under way: a full disk, for example, is told in one line.

    Raises:
      RunError: in place of any `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}; the checkpoints are kept") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to be written, which then becomes `path` in one stroke.

    Whoever reads `path` sees the old file or the new one, never a part, even after a power failure.
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
    """Makes sure that a file, or the names in a folder, are on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file in one stroke."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
      UsageError: a file that is missing or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; is {path.parent} the folder of a run?") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


@contextlib.contextmanager
def claim(config: Config) -> Iterator[Path]:
    """The run's folder, made if need be, with its `config.json` in place, for this process alone.

    A folder that holds a run of the same configuration is taken, to be continued. Without a `workdir` it is the
    first free one of `runs/MODEL-DATASET-1`, `-2`, ...

    Raises:
      UsageError: a folder of another run (the fields that differ are named), one that holds something else, one
        in which another process trains, or one that cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            if config.workdir is None:
                workdir = _next_free(config)
            else:
                workdir = Path(config.workdir).expanduser()
                workdir.mkdir(parents=True, exist_ok=True)
            held.enter_context(exclusive(workdir))
            if (workdir / CONFIG).exists():
                changed = differences(read_json(workdir / CONFIG), to_dict(config))
                if changed:
                    raise UsageError(f"{workdir} holds another run ({'; '.join(changed)}); give another --workdir")
            elif any(not path.name.startswith(".") for path in workdir.iterdir()):
                raise UsageError(f"{workdir} is not empty and holds no run; give another --workdir")
            else:
                write_json(workdir / CONFIG, to_dict(config))
        except OSError as error:
            raise UsageError(f"workdir {config.workdir or 'runs'} cannot be written: {error.strerror}") from error
        yield workdir


@contextlib.contextmanager
def reserved(config: Config) -> Iterator[Path]:
    """The folder that `claim` is to be given as `workdir`, for who has to know it before the run starts.

    A folder that is made here and stays empty is removed in the end.

    Raises:
      UsageError: it cannot be written.
    """
    if config.workdir is not None:
        yield Path(config.workdir).expanduser()
        return
    try:
        folder = _next_free(config)
    except OSError as error:
        raise UsageError(f"workdir runs cannot be written: {error.strerror}") from error
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # not empty, as a rule
            folder.rmdir()
            folder.parent.rmdir()


def _next_free(config: Config) -> Path:
    folder, name, number = Path("runs"), f"{config.model}-{config.dataset.replace('/', '_')}", 1
    while True:
        try:
            (folder / f"{name}-{number}").mkdir(parents=True)
            return folder / f"{name}-{number}"
        except FileExistsError:
            if not (folder / f"{name}-{number}").is_dir():
                raise
            number += 1


def read_config(workdir: Path) -> Config:
    """The configuration of the run in this folder.

    Raises:
      UsageError: if there is none.
    """
    if not workdir.is_dir():
        raise UsageError(f"{workdir} does not exist; --workdir is the folder of a run")
    return from_dict(read_json(workdir / CONFIG))
