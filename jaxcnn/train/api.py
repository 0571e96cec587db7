"""Train a run: `fit`."""

import dataclasses
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from rich.console import Console

from jaxcnn import startup
from jaxcnn.errors import printable
from jaxcnn.local_path import local_folder
from jaxcnn.train.config import Config, validate
from jaxcnn.train.devices import distributed
from jaxcnn.train.devices.distributed import Ignored
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime import _pictures, integrity, preprocessing, workdir
from jaxcnn.train.runtime._progress import PreparationDisplay, ProgressDisplay, print_summary
from jaxcnn.train.runtime.loop import Loop, is_out_of_patience
from jaxcnn.train.runtime.plan import Plan, make_plan
from jaxcnn.train.runtime.record import Record, WeightsAndBiases, check_wandb, read_rows
from jaxcnn.train.runtime.resume import claimed
from jaxcnn.train.runtime.signals import StopSignals
from jaxcnn.train.state import TrainState
from jaxcnn.version import __version__


@dataclass(frozen=True)
class Result:
    """The outcome of a run.

    Attributes:
      config: the run's configuration.
      workdir: the run directory.
      state: the state after the last step.
      test_accuracy: fraction of the `test_examples` that are classified correctly.
      test_loss: mean cross-entropy of the test examples, in nats.
      test_examples: number of test examples: the whole test set.
      values: everything in `result.json`.
    """

    config: Config
    workdir: Path
    state: TrainState
    test_accuracy: float
    test_loss: float
    test_examples: int
    values: dict[str, Any]


def fit(
    config: Config,
    *,
    model: nn.Module | None = None,
    loss: Callable[..., Any] | None = None,
    augment: Callable[..., Any] | None = None,
    optimizer: Any = None,
    console: Console | None = None,
) -> Result:
    """Train a model, and return the result.

    The run directory (`config.workdir`) then contains `config.json`, `metrics.jsonl` (a line for each step and test),
    TensorBoard events, `checkpoints/`, `curves.png` and `result.json`. If it contains an unfinished run of the same
    configuration, that run is resumed from its latest intact checkpoint. The result has the same bits as that of an
    uninterrupted run.

    After SIGTERM or SIGINT (Ctrl-C) the current step ends and the state is saved. A second Ctrl-C stops at once.

    After `distributed.initialize` every process must call this function with the same configuration. Only the first one
    writes and prints. All return the same result.

    Args:
      config: what to train, on what data, and how.
      model: a Linen module to use instead of the named one: `model(x, train=...) -> logits`.
      loss: a function to use instead of the named one: `(logits [N, classes], labels [N]) -> [N]`.
      augment: a function to use instead of the named ones: `(key, image [H, W, C]) -> [H, W, C]`.
      optimizer: an Optax transformation to use instead of the named one, or a function `schedule -> transformation`.
      console: where to print; standard output by default. With `progress=False`, the result is printed to a console
        that is given, and nothing is printed otherwise.

    Raises:
      UsageError: if the configuration cannot work, before anything is written, or if another process is training in
        the run directory.
      DivergedError: if the loss or the state became infinite or NaN.
      SaveError: if a checkpoint could not be written.
      InterruptedRunError: if a signal asked the run to stop.
    """
    started = time.perf_counter()
    shows_result = distributed.is_first() and (config.progress or console is not None)
    console = console or Console()
    validate(config)
    if config.wandb:
        check_wandb()
    parts = CustomParts(model, loss, augment, optimizer)
    config = workdir.with_absolute_paths(config)
    recorded = distributed.on_first(lambda: _recorded_preprocessing(config))
    shows = config.progress and distributed.is_first()
    around = None if recorded is None else preprocessing.from_dict(recorded)
    with PreparationDisplay(config.dataset, enabled=shows) as preparation:
        plan = distributed.together(lambda: make_plan(config, parts, around, preparation.show))
    config = plan.config
    with StopSignals() as stop, claimed(plan) as start:
        first_step = int(start.state.step)
        if start.continued and shows:
            done = f"holds {first_step:,} of {plan.steps:,} steps of this run; going on from there"
            console.print(f"{printable(start.folder)} {done}", markup=False, emoji=False)
        state = plan.parallel.place_state(start.state)
        is_complete = first_step >= plan.steps or is_out_of_patience(config, start.meta.get("epochs_since_best", 0))
        if not (start.finished and is_complete):
            for note in (*start.notes, *_notes(plan)) if shows else ():
                console.print(printable(note), markup=False, emoji=False, highlight=False)
            with (
                _open_record(start.folder, first_step, config) as record,
                ProgressDisplay(
                    console,
                    steps=plan.steps,
                    first_step=first_step,
                    batch_size=plan.batch_size,
                    enabled=shows,
                ) as display,
            ):
                run = Loop(plan, start, record, display, stop, started)
                state, test = run.train(state, first_step)
                host = plan.parallel.fetch_state(state)
                if config.tensorboard_images and distributed.is_first():
                    picture = _pictures.draw_predictions(plan, host, config.tensorboard_images)
                    record.write_picture("test/predictions", int(host.step), picture)
            distributed.check_equal("the state", integrity.sha256(host))
            distributed.on_first(lambda: _write_result(run, host, test))
    values = distributed.on_first(lambda: workdir.read_result(start.folder))
    if shows_result:
        print_summary(console, values, start.folder)
        # Results of version 0.1 have no "stopped".
        if reason := values.get("stopped"):
            console.print(reason, highlight=False)
        # Results of version 0.1 have no "data_wait".
        if advice := plan.pipeline.advice(values.get("data_wait", 0.0)):
            console.print(advice, highlight=False)
    return Result(
        config, start.folder, state, values["test_accuracy"], values["test_loss"], values["test_examples"], values
    )


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    return {"jaxcnn": __version__, "python": platform.python_version(), **packages}


def _recorded_preprocessing(config: Config) -> dict[str, Any] | None:
    """Return the preprocessing that the run directory stores for a run on this dataset, as a JSON value, or None."""
    folder = None if config.workdir is None else local_folder("workdir", config.workdir)
    if folder is None or not workdir.is_run_on(folder, config.dataset):
        return None
    stored = preprocessing.read(folder)
    return None if stored is None else dataclasses.asdict(stored)


def _notes(plan: Plan) -> list[str]:
    """Return what the user should know before the run starts, one line each."""
    height, width, channels = plan.pipeline.image_shape
    slow = startup.advice(plan.batch_size * height * width * channels, plan.parallel.devices[0].platform)
    return plan.notes() if slow is None else [*plan.notes(), slow]


def _open_record(folder: Path, first_step: int, config: Config) -> Record | nullcontext[Ignored]:
    if not distributed.is_first():
        return nullcontext(Ignored())
    return Record(folder, first_step, WeightsAndBiases(folder, config) if config.wandb else None)


def _write_result(run: Loop, state: TrainState, test: dict[str, float]) -> None:
    """Write `curves.png` and then `result.json`, which marks the run as finished."""
    run.checkpoints.wait()
    config, folder, rows = run.plan.config, run.folder, read_rows(run.folder)
    with workdir.writing(folder):
        with workdir.replacing(folder / workdir.CURVES) as picture:
            title = f"{config.model} on {config.dataset}"
            _pictures.draw_curves(rows, title, picture, label_smoothing=config.label_smoothing)
        values = _result_values(run, state, test, train=_pictures.epoch_means(rows)[0][-1])
        workdir.write_json(folder / workdir.RESULT, values)


def _result_values(run: Loop, state: TrainState, test: dict[str, float], train: dict[str, Any]) -> dict[str, Any]:
    """Return the values of `result.json`. `train` contains the means of the last epoch's steps."""
    plan, steps = run.plan, int(state.step)
    stopped = f"stopped at step {steps:,} of {plan.steps:,}: no better test accuracy in {run.epochs_since_best} epochs"
    return {
        "model": plan.config.model,
        "dataset": plan.config.dataset,
        "steps": steps,
        "epochs": plan.epoch(steps),
        "stopped": stopped if steps < plan.steps else None,
        "batch_size": plan.batch_size,
        "seed": plan.config.seed,
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
        "test_examples": test["examples"],
        "train_accuracy": train["accuracy"],
        "train_loss": train["loss"],
        "params": sum(x.size for x in jax.tree.leaves(plan.template.params)),
        "seconds": time.perf_counter() - run.started,
        "first_batch_seconds": run.watch.first_batch_seconds,
        "compile_seconds": run.watch.compile_seconds,
        "images_per_second": run.watch.images / run.watch.training_seconds if run.watch.images else 0.0,
        "data_wait": run.data_wait,
        "data_residence": plan.pipeline.residence,
        "devices": len(plan.parallel.devices),
        "device_kind": plan.parallel.devices[0].device_kind,
        "parallel": plan.parallel.name,
        "processes": plan.parallel.share[1],
        "settled": startup.settled() is not None,
        "freed_memory": "kept" if startup.keeps_freed_memory() else "returned",
        "state_sha256": integrity.sha256(state),
        "versions": versions(),
    }
