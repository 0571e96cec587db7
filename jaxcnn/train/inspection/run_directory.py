"""Find damaged files in a run directory."""

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxcnn.errors import RunError, UsageError
from jaxcnn.local_path import local_folder
from jaxcnn.train.inspection.events import check_events
from jaxcnn.train.runtime import data_identity, preprocessing, record, sealed, workdir
from jaxcnn.train.runtime.callbacks.wandb import WANDB
from jaxcnn.train.runtime.checkpoint import DAMAGED, Checkpoints

Status = Literal["sound", "unchecked", "damaged"]

REMEDY = "Remove this file and result.json, and run the same command again, which writes both files."
"""Sentence for error messages that says how to repair a damaged picture."""


@dataclass(frozen=True)
class Finding:
    """The result of the check of one file or one checkpoint in a run directory.

    Attributes:
      file: path of the file, relative to the run directory.
      status: "sound" if the file is intact, "unchecked" if it has no checksum, or "damaged".
      detail: one line that describes the content of the file, or its damage.

    >>> finding = Finding("checkpoints/100", "damaged", "params/conv1/kernel: another checksum")
    >>> [finding.file for finding in [finding] if finding.status == "damaged"]
    ['checkpoints/100']
    """

    file: str
    status: Status
    detail: str


def check_run(folder: str | Path) -> list[Finding]:
    """Check the checkpoints, the JSON files, the metrics, the picture and the TensorBoard events in a run directory.

    The run may be training at the same time. The dataset and a custom model of the run are not needed.

    Args:
      folder: the run directory.

    Returns:
      A finding for each file and each checkpoint. A required file that is missing counts as damaged.

    Raises:
      UsageError: if the directory does not exist, or is not a run directory.
    """
    folder = local_folder("workdir", folder)
    if not folder.is_dir():
        raise UsageError(f"{folder} does not exist. Give the directory of a run.")
    if not any((folder / name).exists() for name in (workdir.CONFIG, workdir.RESULT, workdir.CHECKPOINTS)):
        raise UsageError(f"{folder} holds no run: the file {workdir.CONFIG} is missing. Give the directory of a run.")
    return [*_findings(folder)]


def _findings(folder: Path) -> Iterator[Finding]:
    config = _sealed(folder, workdir.CONFIG, lambda: workdir.read_config(folder), needed=True)
    if config.status == "sound" and _is_alone(folder):
        config = Finding(workdir.CONFIG, "damaged", "belongs to another run than all other files. Restore the file.")
    yield config
    yield _sealed(folder, preprocessing.PREPROCESSING, lambda: preprocessing.read(folder), needed=False)
    yield _sealed(folder, data_identity.DATA, lambda: _check_data(folder), needed=False)
    if (folder / WANDB).exists():
        yield _sealed(folder, WANDB, lambda: workdir.read_sealed(folder / WANDB), needed=False)
    result = _result(folder)
    if result is not None:
        yield result
    has_result = result is not None and result.status != "damaged" and (folder / workdir.RESULT).exists()
    values = workdir.read_result(folder) if has_result else {}
    of_checkpoints = [*_checkpoints(folder, values)]
    sound = [int(found.file.rpartition("/")[2]) for found in of_checkpoints if found.status == "sound"]
    yield from _metrics(folder, max([*sound, values.get("steps", 0)]), is_finished=bool(values))
    yield from of_checkpoints
    for path in sorted(folder.glob("events.out.tfevents.*")):
        problem = check_events(path)
        yield Finding(path.name, "sound" if problem is None else "damaged", problem or "TensorBoard events")
    if (folder / workdir.CURVES).exists():
        problem = _picture_problem(folder / workdir.CURVES)
        yield Finding(workdir.CURVES, "sound" if problem is None else "damaged", problem or "picture")
    elif values:
        yield Finding(workdir.CURVES, "damaged", "missing from a finished run")


def _is_alone(folder: Path) -> bool:
    """Return whether `config.json` belongs to another run than the other JSON files in the run directory."""
    others = set()
    for name in (preprocessing.PREPROCESSING, data_identity.DATA, workdir.RESULT):
        with contextlib.suppress(UsageError):
            others.add(sealed.unseal(folder / name, workdir.read_json(folder / name), "").run)
    return len(others) == 1 and others != {workdir.run_of(folder)} and None not in others


def _sealed(folder: Path, name: str, read: Callable[[], Any], *, needed: bool) -> Finding:
    """Check a JSON file with a checksum, and return the finding. Call `read` to read the file and check its values."""
    path = folder / name
    if not path.exists():
        return Finding(name, "damaged" if needed else "unchecked", "missing")
    try:
        read()
        is_checked = workdir.read_sealed(path).is_checked
    except UsageError as error:
        return Finding(name, "damaged", _without_path(error, path))
    return Finding(name, *(("sound", "sha256 matches") if is_checked else ("unchecked", "no sha256")))


def _without_path(error: Exception, path: Path) -> str:
    """Return the message of an error without the path at its start."""
    return " ".join(str(error).removeprefix(f"{path} ").removeprefix("is damaged: ").split())


def _check_data(folder: Path) -> None:
    """Raise `UsageError` if `data.json` is damaged."""
    values = workdir.read_sealed(folder / data_identity.DATA, data_identity.REMEDY).values
    if not isinstance(values.get("parts"), dict):
        raise UsageError(
            f"{folder / data_identity.DATA} is damaged: the field parts is missing. {data_identity.REMEDY}"
        )


def _result(folder: Path) -> Finding | None:
    """Return the finding for `result.json`, or None if the run is not finished."""
    if not (folder / workdir.RESULT).exists() and not (folder / workdir.CURVES).exists():
        return None  # a run draws its curves just before it writes its result
    return _sealed(folder, workdir.RESULT, lambda: workdir.read_result(folder), needed=False)


def _metrics(folder: Path, made: int, *, is_finished: bool) -> Iterator[Finding]:
    """Yield the finding for `metrics.jsonl`.

    Args:
      folder: the run directory.
      made: number of steps that the run had made at its latest checkpoint. Each of these steps must have a row.
      is_finished: whether the run has an intact `result.json`.
    """
    name = workdir.METRICS
    if not (folder / name).exists():
        if made:
            yield Finding(name, "damaged", f"missing from a run of {made:,} steps")
        return
    try:
        lines = record.read_lines(folder)
    except UsageError as error:
        yield Finding(name, "damaged", _without_path(error, folder / name))
        return
    steps = [row["step"] for row in lines.rows if row["split"] == "train"]
    damaged = lines.damaged[:-1] if lines.is_torn and not is_finished else lines.damaged
    missing = sorted({*range(1, max(made, *steps, 0) + 1)} - {*steps})
    if damaged:
        shown = f"line {damaged[0]}" if len(damaged) == 1 else f"{len(damaged)} lines, the first is line {damaged[0]},"
        lost = f"; no row of steps {record.ranges(missing)}" if missing else ""
        yield Finding(name, "damaged", f"{shown} cannot be read{lost}. A resumed run drops damaged lines.")
    elif missing:
        yield Finding(name, "damaged", f"no row of steps {record.ranges(missing)}")
    elif lines.unchecked:
        yield Finding(name, "unchecked", f"{lines.unchecked:,} of {len(lines.rows):,} rows cannot be checked")
    else:
        torn = "; the last line is incomplete, as happens if a process is killed" if lines.is_torn else ""
        yield Finding(name, "sound", f"{len(lines.rows):,} rows{torn}")


def _checkpoints(folder: Path, result: dict[str, Any]) -> Iterator[Finding]:
    """Yield a finding for each checkpoint.

    Args:
      folder: the run directory.
      result: values of `result.json`; empty if the run is not finished, or if the file is damaged.
    """
    path = folder / workdir.CHECKPOINTS
    try:
        with Checkpoints(path, read_only=True) as checkpoints:
            steps = checkpoints.steps()
            for step in steps:
                name = f"{workdir.CHECKPOINTS}/{step}"
                try:
                    checkpoints.verify(step)
                except RunError as error:
                    yield Finding(name, "damaged", _without_path(error, Path(f"checkpoint {path.absolute()}/{step}")))
                else:
                    yield Finding(name, "sound", f"state of step {step:,}")
    except UsageError as error:
        yield Finding(workdir.CHECKPOINTS, "damaged", _without_path(error, path.absolute()))
        return
    needed = {result[name] for name in ("steps", "test_step") if isinstance(result.get(name), int)}
    for step in sorted(needed - {*steps}):
        yield Finding(f"{workdir.CHECKPOINTS}/{step}", "damaged", f"missing, although {workdir.RESULT} refers to it")
    aside = folder / DAMAGED
    if aside.is_dir():
        names = ", ".join(sorted(path.name for path in aside.iterdir()))
        yield Finding(DAMAGED, "unchecked", f"checkpoints that an earlier start found damaged: {names}")


def _picture_problem(path: Path) -> str | None:
    """Return one line that describes the damage of a PNG file, or None if its checksums match."""
    from PIL import Image, UnidentifiedImageError

    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.verify()
    except UnidentifiedImageError:
        return f"the file is not a PNG file. {REMEDY}"
    except Exception as error:  # Pillow raises errors of many types
        return f"the picture is damaged: {str(error).splitlines()[0]}. {REMEDY}"
    return None
