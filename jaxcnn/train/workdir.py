"""The folder of a run: claimed before anything is written, and never half-written."""

import json
import os
from pathlib import Path
from typing import Any

from jaxcnn.errors import UsageError
from jaxcnn.train.config import Config, differences, from_dict, to_dict

CONFIG = "config.json"
RESULT = "result.json"
METRICS = "metrics.jsonl"
CURVES = "curves.png"
CHECKPOINTS = "checkpoints"


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file in one stroke: whoever reads it sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


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


def claim(config: Config) -> Path:
    """The run's folder, made if need be, with its `config.json` in place.

    A folder that holds a run of the same configuration is taken, to be continued. Without a `workdir` it is the
    first free one of `runs/MODEL-DATASET-1`, `-2`, ...

    Raises:
      UsageError: a folder of another run (the fields that differ are named), one that holds something else, or
        one that cannot be written.
    """
    try:
        if config.workdir is None:
            workdir = _next_free(Path("runs"), f"{config.model}-{config.dataset.replace('/', '_')}")
        else:
            workdir = Path(config.workdir).expanduser()
            workdir.mkdir(parents=True, exist_ok=True)
        if (workdir / CONFIG).exists():
            changed = differences(read_json(workdir / CONFIG), to_dict(config))
            if changed:
                raise UsageError(f"{workdir} holds another run ({'; '.join(changed)}); give another --workdir")
        elif any(not path.name.startswith(".") for path in workdir.iterdir()):
            raise UsageError(f"{workdir} is not empty and holds no run; give another --workdir")
        else:
            write_json(workdir / CONFIG, to_dict(config))
        return workdir
    except OSError as error:
        raise UsageError(f"workdir {config.workdir or 'runs'} cannot be written: {error.strerror}") from error


def _next_free(folder: Path, name: str) -> Path:
    number = 1
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
