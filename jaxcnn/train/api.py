"""Train a run: `fit`."""

import dataclasses
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from rich.console import Console

from jaxcnn import kernels, startup
from jaxcnn.data import Dataset
from jaxcnn.errors import printable
from jaxcnn.local_path import local_folder
from jaxcnn.train.callbacks import check_callbacks
from jaxcnn.train.config import Config, is_out_of_patience, validate
from jaxcnn.train.devices import distributed, waits
from jaxcnn.train.devices.distributed import Ignored
from jaxcnn.train.gradient import Gradient
from jaxcnn.train.parts import PREFIX, CustomParts
from jaxcnn.train.runtime import _pictures, integrity, preprocessing, workdir
from jaxcnn.train.runtime._progress import PreparationDisplay, ProgressDisplay, print_summary
from jaxcnn.train.runtime.callbacks import built_in, check_wandb, has_tensorboard, parse_profile
from jaxcnn.train.runtime.data_identity import with_name_of_data
from jaxcnn.train.runtime.loop import Loop
from jaxcnn.train.runtime.plan import Plan, make_plan
from jaxcnn.train.runtime.record import Record, read_rows
from jaxcnn.train.runtime.resume import Start, claimed, restore_pipeline
from jaxcnn.train.runtime.signals import StopSignals
from jaxcnn.train.state import TrainState
from jaxcnn.train.task import Task, higher_is_better
from jaxcnn.version import __version__


@dataclass(frozen=True)
class Result:
    """The outcome of a run.

    Attributes:
      config: the run's configuration.
      workdir: the run directory.
      state: the state after the last step. With validation examples, the test metrics are those of the best checkpoint,
        which `load_run(workdir)` opens.
      test_accuracy: fraction of the `test_examples` that are classified correctly; NaN of a task without accuracy.
      test_loss: mean loss of the test examples, in nats for cross-entropy.
      test_examples: number of test examples: the whole test set.
      metrics: all metrics of the test set by name; see `jaxcnn.train.metrics`.
      values: everything in `result.json`.

    >>> state: Any = None  # left out here
    >>> result = Result(Config(), Path("run"), state, 0.9, 0.3, 500, {"accuracy": 0.9, "loss": 0.3}, {"steps": 940})
    >>> f"{result.test_accuracy:.1%} of {result.test_examples} test images after {result.values['steps']} steps"
    '90.0% of 500 test images after 940 steps'
    """

    config: Config
    workdir: Path
    state: TrainState
    test_accuracy: float
    test_loss: float
    test_examples: int
    metrics: dict[str, Any]
    values: dict[str, Any]


def fit(
    config: Config,
    *,
    data: Dataset | None = None,
    task: Task | None = None,
    model: nn.Module | None = None,
    loss: Callable[..., Any] | None = None,
    augment: Callable[..., Any] | None = None,
    optimizer: Any = None,
    gradient: Gradient | None = None,
    metrics: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
    console: Console | None = None,
) -> Result:
    """Train a model, and return the result.

    The run directory (`config.workdir`) then contains `config.json`, `metrics.jsonl` (a line for each step and test),
    TensorBoard events, `checkpoints/`, `curves.png` and `result.json`. If it contains an unfinished run of the same
    configuration, that run is resumed from its latest intact checkpoint. The result has the same bits as that of an
    uninterrupted run, if the data has random access; iterators are described in `jaxcnn.data.from_batches`.

    With validation examples (`config.validation`, or those of the data), they are evaluated after each epoch, and the
    test set is evaluated once, at the end, with the best checkpoint. Otherwise the test set is evaluated after each
    epoch.

    After SIGTERM or SIGINT (Ctrl-C) the current step ends and the state is saved. A second Ctrl-C stops at once.

    After `distributed.initialize` every process must call this function with the same configuration. Only the first one
    writes and prints. All return the same result.

    Args:
      config: the configuration of the run.
      data: data of your own to use instead of the named dataset: from `jaxcnn.data.from_arrays`, `from_table`,
        `from_folder`, `from_source` or `from_batches`.
      task: the loss and the metrics, instead of those of classification; see `jaxcnn.train.Task`.
      model: a Linen module to use instead of the named one: `model(x, train=...) -> logits`.
      loss: a function to use instead of the named one: `(logits [N, classes], labels [N]) -> [N]`.
      augment: a function to use instead of the named ones: `(key, image [H, W, C]) -> [H, W, C]`.
      optimizer: an Optax transformation to use instead of the named one, or a function `schedule -> transformation`.
      gradient: a function to use instead of the plain gradient: `(loss, params) -> (gradients, aux)`; see
        `jaxcnn.train.gradient`.
      metrics: metrics of evaluations by name, beside the named ones: `(logits [N, classes], labels) -> [N]`, whose mean
        is reported, or `jaxcnn.train.metrics.Metric`.
      callbacks: objects with methods such as `on_step` and `on_epoch`; see `jaxcnn.train.Callback`.
      console: where to print; standard output by default. With `progress=False`, the result is printed to a console
        that is given, and nothing is printed otherwise.

    Raises:
      UsageError: if the configuration cannot work, before anything is written, if another process is training in the
        run directory, or if the processes of the run have different configurations or data.
      DivergedError: if the loss or the state became infinite or NaN.
      SaveError: if a checkpoint could not be written.
      CorruptDeviceError: with `verify_every`, if a device was wrong three times.
      InterruptedRunError: if a signal asked the run to stop.
    """
    started = time.perf_counter()
    validate(config)
    if config.wandb:
        check_wandb()
    parts = CustomParts(model, loss, augment, optimizer, task, gradient, metrics)
    own_callbacks = check_callbacks(callbacks)
    config = workdir.with_absolute_paths(with_name_of_data(config, data))
    recorded = distributed.on_first(lambda: _recorded_preprocessing(config))
    around = None if recorded is None else preprocessing.from_dict(recorded)
    with PreparationDisplay(config.dataset, enabled=config.progress and distributed.is_first()) as preparation:
        plan = distributed.together(lambda: make_plan(config, parts, around, preparation.show, data))
    return train_plan(plan, callbacks=own_callbacks, console=console, started=started)


def train_plan(
    plan: Plan, *, callbacks: Sequence[Any] = (), console: Console | None = None, started: float | None = None
) -> Result:
    """Train the run of a plan, or resume it, as `fit` does.

    Args:
      plan: the run's parts.
      callbacks, console: as in `fit`.
      started: when the run was started, by `time.perf_counter`. Default: now.
    """
    started = time.perf_counter() if started is None else started
    config = plan.config
    shows = config.progress and distributed.is_first()
    shows_result = distributed.is_first() and (config.progress or console is not None)
    console = console or Console()
    profile = None if config.profile is None else parse_profile(config.profile, plan.steps)
    with StopSignals() as stop, claimed(plan) as start:
        first_step = int(start.state.step)
        if start.continued and shows:
            done = f"has the state of step {first_step:,} of {plan.steps:,}. The run is resumed from it."
            console.print(f"{printable(start.folder)} {done}", markup=False, emoji=False)
        state = plan.parallel.place_state(start.state)
        is_complete = first_step >= plan.steps or start.meta["stopped_by"] is not None
        is_complete |= is_out_of_patience(config, start.meta["epochs_since_best"])
        if not (start.finished and is_complete):
            restore_pipeline(plan, start)
            for note in (*start.notes, *_notes(plan)) if shows else ():
                console.print(printable(note), markup=False, emoji=False, highlight=False)
            with (
                _open_record(plan, start) as record,
                ProgressDisplay(
                    console,
                    steps=plan.steps,
                    first_step=first_step,
                    batch_size=plan.batch_size,
                    enabled=shows,
                ) as display,
            ):
                trackers = built_in(wandb=config.wandb, profile=profile, show=console.print)
                run = Loop(plan, start, record, display, stop, started, (*trackers, *callbacks))
                with run.callbacks_open(state), waits.counted():
                    state = run.train(state)
                    host = plan.parallel.fetch_state(state)
                    test_step, test = run.test(state)
                    if config.tensorboard_images and distributed.is_first():
                        picture = _pictures.draw_predictions(plan, host, config.tensorboard_images)
                        run.show_picture("test/predictions", picture, state)
            distributed.check_equal("the state", integrity.sha256(host))
            distributed.on_first(lambda: _write_result(run, host, test_step, test))
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
        config,
        start.folder,
        state,
        _number(values.get("test_accuracy")),
        _number(values.get("test_loss")),
        values["test_examples"],
        values.get("metrics", {}),
        values,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


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
    """Return notes for the user before the run starts, one line each."""
    height, width, channels = plan.pipeline.image_shape
    resuming = getattr(plan.pipeline, "note", None)
    slow = startup.advice(plan.batch_size * height * width * channels, plan.parallel.devices[0].platform)
    events = None
    if not has_tensorboard():
        events = "TensorBoard events are not written: tensorboardX is not installed. Run: pip install tensorboardX"
    return [*plan.notes(), *(note for note in (resuming, slow, events) if note is not None)]


def _open_record(plan: Plan, start: Start) -> Record | nullcontext[Ignored]:
    is_first = distributed.is_first()
    return Record(start.folder, int(start.state.step), plan.epoch) if is_first else nullcontext(Ignored())


def _write_result(run: Loop, state: TrainState, test_step: int, test: dict[str, Any]) -> None:
    """Write `curves.png` and then `result.json`, which marks the run as finished."""
    run.checkpoints.wait()
    config, folder, rows = run.plan.config, run.folder, read_rows(run.folder)
    with workdir.writing(folder):
        with workdir.replacing(folder / workdir.CURVES) as picture:
            title = f"{config.model} on {config.dataset}"
            smoothing = config.label_smoothing
            _pictures.draw_curves(rows, title, picture, monitor=run.plan.monitor, label_smoothing=smoothing)
        train = (_pictures.epoch_means(rows)[0] or [{}])[-1]
        values = _result_values(run, state, test_step, test, train)
        workdir.write_sealed(folder / workdir.RESULT, values)


def _stopped(run: Loop, steps: int) -> str | None:
    """Return why the run has ended before its last step, or None."""
    plan = run.plan
    if steps >= plan.steps:
        return None
    reason = f"no better {plan.held_out} {plan.monitor} in {run.epochs_since_best} evaluations"
    if run.stopped_by is not None:
        reason = f"callback {run.stopped_by} asked for it"
    return f"stopped at step {steps:,} of {plan.steps:,}: {reason}"


def _result_values(
    run: Loop, state: TrainState, test_step: int, test: dict[str, Any], train: dict[str, Any]
) -> dict[str, Any]:
    """Return the values of `result.json`.

    Args:
      run: the run.
      state: after the last step.
      test_step: step of the checkpoint that the test metrics belong to.
      test: metrics of the test set.
      train: means of the last epoch's steps.
    """
    plan, steps = run.plan, int(state.step)
    held_out = plan.dataset.examples.get("validation", 0)
    best = run.best_score if run.best_score is None or higher_is_better(plan.monitor) else -run.best_score
    return {
        "model": plan.config.model,
        "dataset": plan.config.dataset.removeprefix(PREFIX),
        "steps": steps,
        "epochs": plan.epoch(steps),
        "stopped": _stopped(run, steps),
        "batch_size": plan.batch_size,
        "seed": plan.config.seed,
        "test_accuracy": test.get("accuracy"),
        "test_loss": test.get("loss"),
        "test_examples": test["examples"],
        "test_step": test_step,
        "metrics": {name: value for name, value in test.items() if name != "examples"},
        "monitor": plan.monitor,
        "validation_examples": held_out,
        "best_validation": best if held_out else None,
        "train_accuracy": train.get("accuracy"),
        "train_loss": train.get("loss"),
        "params": sum(x.size for x in jax.tree.leaves(plan.template.params)),
        "seconds": time.perf_counter() - run.started,
        "first_batch_seconds": run.watch.first_batch_seconds,
        "compile_seconds": run.watch.compile_seconds,
        "images_per_second": run.watch.images / run.watch.training_seconds if run.watch.images else 0.0,
        "data_wait": run.data_wait,
        "data_residence": plan.pipeline.residence,
        "devices": len(plan.parallel.devices),
        "device_kind": plan.parallel.devices[0].device_kind,
        "kernels": kernels.in_use(),
        "parallel": plan.parallel.name,
        "processes": plan.parallel.share[1],
        "settled": startup.settled() is not None,
        "freed_memory": "kept" if startup.keeps_freed_memory() else "returned",
        "state_sha256": integrity.sha256(state),
        "versions": versions(),
    }
