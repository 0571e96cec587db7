"""Damage to the files of a run's directory, and what comes of it: nothing wrong is read without a line that says so."""

import contextlib
import dataclasses
import io
import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import killing
import worker
from PIL import Image

from jaxcnn import models
from jaxcnn.errors import RunError, UsageError
from jaxcnn.train import Config, OptimizerConfig, check_run, fit, load_run
from jaxcnn.train.evaluation import evaluation
from jaxcnn.train.runtime import _pictures, plan, trained
from jaxcnn.train.runtime.checkpoint import Checkpoints
from jaxcnn.train.runtime.record import read_rows

STEPS, STOPPED = 6, 4
"""Steps of the runs, and of those that were stopped."""

UNKNOWABLE = ("result.json", "events.out.tfevents", "curves.png")
"""Files of which nothing says that they must exist, or that are never read: they may be removed or replaced."""


class Stopped(Exception):
    """Ends a run behind a checkpoint, as a kill would."""


@contextlib.contextmanager
def quick_runs() -> Iterator[None]:
    """Make the tiny model and data known, and let all runs in this process share their programs and a picture."""
    kept: dict[Any, Any] = {}
    before = [(plan, "open_dataset", plan.open_dataset), (_pictures, "draw_curves", _pictures.draw_curves)]
    before += [(evaluation, "open_dataset", evaluation.open_dataset), (trained, "open_dataset", trained.open_dataset)]
    before += [(plan.Plan, name, getattr(plan.Plan, name)) for name in ("compile_train_steps", "compile_eval_step")]

    def once(name: str, compile_: Callable[..., Any]) -> Callable[..., Any]:
        def compiled(self: plan.Plan, *args: Any) -> Any:
            if (name, args) not in kept:
                kept[name, args] = compile_(self, *args)
            return kept[name, args]

        return compiled

    picture = io.BytesIO()
    Image.new("L", (8, 8)).save(picture, "PNG")
    models._registry()["tiny"] = (worker.Tiny, worker.__name__)
    worker.install()
    trained.open_dataset = plan.open_dataset
    for owner, name, function in before[4:]:
        setattr(owner, name, once(name, function))
    _pictures.draw_curves = lambda rows, title, path, **_: path.write_bytes(picture.getvalue())
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)
        del models._registry()["tiny"]


def config_of(folder: Path, seed: int = 0) -> Config:
    options = {"batch_size": 16, "steps": STEPS, "checkpoint_every": 2, "log_every": 3, "seed": seed}
    parts = {"model": "tiny", "dataset": "tiny", "augment": ("flip",), "optimizer": OptimizerConfig("adam", 0.01)}
    return Config(**parts, **options, ema_decay=0.9, progress=False, workdir=str(folder))


@dataclasses.dataclass
class Runs:
    """Sound runs to damage copies of.

    Attributes:
      folder: holds `finished`, `stopped`, and the same of another seed, `other-finished` and `other-stopped`.
      truth: by kind of run, what is read from it at each step: `load_run`'s; and what it ends in.
    """

    folder: Path
    truth: dict[str, Any] = dataclasses.field(default_factory=dict)

    def prepare(self) -> None:
        """Train the runs, and note what is right."""
        for seed, prefix in ((0, ""), (1, "other-")):
            stopped = self.folder / f"{prefix}stopped"
            with contextlib.suppress(Stopped), _stopping(STOPPED):
                fit(config_of(stopped, seed))
            finished = shutil.copytree(stopped, self.folder / f"{prefix}finished")
            (finished / ".lock").unlink(missing_ok=True)
            fit(config_of(finished, seed))
        for name in ("stopped", "finished"):
            run = self.folder / name
            steps = killing.complete_checkpoints(run)
            self.truth[name] = {step: _content(load_run(run, checkpoint=step)) for step in steps}
        end = fit(config_of(self.folder / "finished"))
        self.truth["end"] = worker.fingerprint(end.state)
        self.truth["result"] = _timeless(end.values)
        self.truth["rows"] = read_rows(self.folder / "finished")


@contextlib.contextmanager
def _stopping(step: int) -> Iterator[None]:
    """Let runs end behind the checkpoint of a step."""
    save = Checkpoints.save

    def dying(self: Checkpoints, state: Any, *args: Any, **kwargs: Any) -> None:
        save(self, state, *args, **kwargs)
        if int(state.step) == step:
            self.wait()
            raise Stopped

    Checkpoints.save = dying
    try:
        yield
    finally:
        Checkpoints.save = save


def _content(run: Any) -> list[str]:
    around = repr((run.preprocessing, dataclasses.replace(run.config, workdir=None)))
    return [worker.fingerprint(run.variables), around]


def _timeless(values: dict[str, Any]) -> dict[str, Any]:
    times = ("seconds", "first_batch_seconds", "compile_seconds", "images_per_second", "data_wait")
    return {name: value for name, value in values.items() if name not in times}


# Damages. Each takes a run directory, a source of chance and another run, and returns the paths that it has damaged.


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def _any_file(folder: Path, chance: random.Random) -> Path:
    """Return a file, of each kind equally often: in the run directory, or in a checkpoint."""
    top = [path for path in _files(folder) if path.parent == folder]
    inner = [path for path in _files(folder) if path.parent != folder]
    return chance.choice(inner if inner and chance.random() < 0.4 else top)


def flip(folder: Path, chance: random.Random, other: Path) -> list[Path]:
    path = _any_file(folder, chance)
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 2, 8)) if content else 0):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(content))
    return [path]


def truncate(folder: Path, chance: random.Random, other: Path) -> list[Path]:
    path = _any_file(folder, chance)
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))] if content else b"")
    return [path]


def empty(folder: Path, chance: random.Random, other: Path) -> list[Path]:
    path = _any_file(folder, chance)
    path.write_bytes(b"")
    return [path]


def remove(folder: Path, chance: random.Random, other: Path) -> list[Path]:
    path = _any_file(folder, chance)
    path.unlink()
    return [path]


def swap(folder: Path, chance: random.Random, other: Path) -> list[Path]:
    """Swap two files of one kind: in the checkpoints of two steps if possible, else any two files."""
    inner = [path for path in _files(folder) if path.parent != folder]
    pairs = [(a, b) for a in inner for b in inner if a < b and a.name == b.name]
    pairs = pairs or [(a, b) for a in _files(folder) for b in _files(folder) if a < b]
    first, second = chance.choice(pairs)
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    return [first, second]


def _steps(folder: Path) -> list[Path]:
    return [folder / "checkpoints" / str(step) for step in killing.complete_checkpoints(folder)]


def swap_checkpoints(folder: Path, chance: random.Random, other: Path) -> list[Path]:
    first, second = chance.sample(_steps(folder), 2)
    aside = folder / "aside"
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    return [first, second]


def copy_checkpoint(folder: Path, chance: random.Random, other: Path) -> list[Path]:
    """Copy a checkpoint to the name of a later step, or rename it."""
    source = chance.choice(_steps(folder))
    later = [source.with_name(str(step)) for step in (STEPS, STEPS + 2, STEPS + 60)]
    target = chance.choice([path for path in later if path != source])
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target) if chance.random() < 0.5 else source.rename(target)
    return [target]


def of_another_run(folder: Path, chance: random.Random, other: Path) -> list[Path]:
    path = _any_file(folder, chance)
    name = path.relative_to(folder)
    theirs = other / name
    if name.name.startswith("events."):
        theirs = next(other.glob("events.*"))
    if theirs.is_file():
        shutil.copy(theirs, path)
    return [path]


def checkpoint_of_another_run(folder: Path, chance: random.Random, other: Path) -> list[Path]:
    source = chance.choice(_steps(other))
    target = folder / "checkpoints" / source.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return [target]


DAMAGES = {
    function.__name__: function
    for function in (
        *(flip, truncate, empty, remove, swap, swap_checkpoints, copy_checkpoint),
        *(of_another_run, checkpoint_of_another_run),
    )
}


@dataclasses.dataclass
class Trial:
    """One copy of a run, damaged once or twice.

    Attributes:
      seed, number: of the trial.
      kind: of the run: "finished" or "stopped".
      damages: names of the damages.
      files: what was damaged, relative to the run directory.
      outcomes: by operation, what came of it.
      failures: what was wrong without a line that says so; tracebacks.
    """

    seed: int
    number: int
    kind: str
    damages: list[str]
    files: list[str] = dataclasses.field(default_factory=list)
    outcomes: dict[str, str] = dataclasses.field(default_factory=dict)
    failures: list[str] = dataclasses.field(default_factory=list)


class _Said(logging.Handler):
    """Collects what is logged."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def run_trial(runs: Runs, seed: int, number: int, folder: Path) -> Trial:
    """Damage a copy of a run in `folder`, and judge what is read of it."""
    chance = random.Random(f"{seed} {number}")
    kind = chance.choice(("finished", "stopped"))
    names = [chance.choice([*DAMAGES]) for _ in range(chance.choice((1, 1, 1, 2)))]
    trial = Trial(seed, number, kind, names)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(runs.folder / kind, folder)
    before = {path: path.read_bytes() for path in _files(folder)}
    for name in names:
        with contextlib.suppress(FileNotFoundError, IndexError, ValueError):  # the first damage left nothing for it
            trial.files += [str(path.relative_to(folder)) for path in DAMAGES[name](folder, chance, _other(runs, kind))]
    after = {path: path.read_bytes() for path in _files(folder)}
    changed = {str(path.relative_to(folder)) for path in {*before, *after} if before.get(path) != after.get(path)}
    _judge_check(trial, runs, folder, changed)
    if {path: path.read_bytes() for path in _files(folder)} != after:
        trial.failures.append("check changed the folder")
    _judge_load(trial, runs, folder)
    _judge_fit(trial, runs, folder)
    return trial


def _other(runs: Runs, kind: str) -> Path:
    return runs.folder / f"other-{kind}"


def _attempt(trial: Trial, what: str, do: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Return the result of an operation, or None, and the lines that were said."""
    said, logger = _Said(), logging.getLogger("jaxcnn")
    logger.addHandler(said)
    try:
        result = do()
        trial.outcomes[what] = "warned" if said.lines else "silent"
        return result, said.lines
    except (UsageError, RunError) as error:
        trial.outcomes[what] = "refused"
        said.lines.append(str(error))
        return None, said.lines
    except Exception as error:
        trial.outcomes[what] = "traceback"
        trial.failures.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")
        return None, said.lines
    finally:
        logger.removeHandler(said)


def _names(lines: list[str], files: list[str]) -> bool:
    """Return whether the lines name a damaged file, or the checkpoint that it belongs to."""
    places = [Path(file).parts for file in files]
    wanted = ["/".join(parts[:2]) if parts[0] == "checkpoints" else parts[0] for parts in places]
    return any(name in line or name.partition("/")[0] in line for line in lines for name in wanted)


def _judge_check(trial: Trial, runs: Runs, folder: Path, changed: set[str]) -> None:
    findings, _ = _attempt(trial, "check", lambda: check_run(folder))
    if findings is None:
        return
    named = {found.file for found in findings if found.status != "sound" or "incomplete" in found.detail}
    for file in sorted(changed):
        if file.startswith("checkpoints/") or file in named:
            continue  # the arrays of a sound checkpoint are compared below
        replaced = "of_another_run" in trial.damages or "remove" in trial.damages
        if "config.json" in named or (replaced and file.startswith(UNKNOWABLE)):
            continue
        if not _means_the_same(folder / file, runs.folder / trial.kind / file):
            trial.failures.append(f"check: {file} is not named")


def _means_the_same(path: Path, original: Path) -> bool:
    """Return whether a changed file holds the same values, such as JSON with another white space."""
    file = path.name
    if not path.is_file() or not original.is_file():
        return False
    try:
        if file.endswith(".json"):
            return json.loads(path.read_text("utf-8-sig")) == json.loads(original.read_text())
        if file.endswith(".jsonl"):
            texts = (path.read_text(), original.read_text())
            return len({json.dumps([json.loads(line) for line in text.splitlines()]) for text in texts}) == 1
        if file == "curves.png":
            return Image.open(path).tobytes() == Image.open(original).tobytes()
    except (ValueError, OSError):
        return False
    return False


def _judge_load(trial: Trial, runs: Runs, folder: Path) -> None:
    loaded, lines = _attempt(trial, "load", lambda: load_run(folder))
    if loaded is None:
        if trial.outcomes["load"] == "refused" and not _names(lines, trial.files):
            trial.failures.append(f"load: refused without the name of a file: {lines[-1][:300]}")
        return
    truth = runs.truth[trial.kind]
    if _content(loaded) != truth.get(loaded.step):
        trial.failures.append(f"load: what was read of step {loaded.step} is wrong")
    if loaded.step != max(truth) and not _names(lines, trial.files):
        trial.failures.append(f"load: step {loaded.step} without a word")


def _judge_fit(trial: Trial, runs: Runs, folder: Path) -> None:
    result, lines = _attempt(trial, "fit", lambda: fit(config_of(folder)))
    if result is None:
        if trial.outcomes["fit"] == "refused" and not _names(lines, trial.files):
            trial.failures.append(f"fit: refused without the name of a file: {lines[-1][:300]}")
        return
    if worker.fingerprint(result.state) != runs.truth["end"]:
        trial.failures.append("fit: another state")
    rows = read_rows(folder)
    right = {(row["split"], row["step"]): row for row in runs.truth["rows"]}
    lost = [row for row in rows if "loss" not in row]
    if any("loss" in row and row != right.get((row["split"], row["step"])) for row in rows):
        trial.failures.append("fit: a row of the metrics is wrong")
    if trial.kind == "stopped":
        steps = [row["step"] for row in rows if row["split"] == "train"]
        if steps != list(range(1, STEPS + 1)):
            trial.failures.append(f"fit: steps of the metrics are {steps}")
        if lost and not any("metrics.jsonl lacks" in line for line in lines):
            trial.failures.append("fit: rows were lost without a word")
    values, wanted = _timeless(result.values), dict(runs.truth["result"])
    if lost:  # means of an epoch are those of the rows that are left
        for name in ("train_accuracy", "train_loss"):
            values.pop(name, None), wanted.pop(name, None)
    if values != wanted:
        differs = [name for name in {**values, **wanted} if values.get(name) != wanted.get(name)]
        trial.failures.append(f"fit: other values in the result: {differs}")
