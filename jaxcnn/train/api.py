"""Train a model with `fit`."""

import dataclasses
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
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
    """The result of a run.

    Attributes:
      config: configuration of the run.
      workdir: the run directory.
      state: training state after the last step. If the run has a validation set, the test metrics were computed with
        the best checkpoint instead; open this checkpoint with `load_run(workdir)`.
      test_accuracy: fraction of the test examples that are classified correctly; NaN if the task has no accuracy.
      test_loss: mean loss of the test examples, in nats for cross-entropy.
      test_examples: number of examples in the test set.
      metrics: all metrics of the test set by name; see `jaxcnn.train.metrics`.
      values: all values in `result.json`.

    >>> state: Any = None  # a run returns a TrainState
    >>> result = Result(Config(), Path("run"), state, 0.9, 0.3, 500, {"accuracy": 0.9, "loss": 0.3}, {"steps": 940})
    >>> f"{result.test_accuracy:.1%} of {result.test_examples} test images after {result.values['steps']} steps"
    '90.0% of 500 test images after 940 steps'
    """

    config: Config
    workdir: Path
    state: TrainState = field(repr=False)
    test_accuracy: float
    test_loss: float
    test_examples: int
    metrics: dict[str, Any]
    values: dict[str, Any] = field(repr=False)


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

    The function writes `config.json`, `metrics.jsonl` (a line for each step and evaluation), TensorBoard events,
    `checkpoints/`, `curves.png` and `result.json` to the run directory, `config.workdir`. If the directory contains an
    unfinished run with the same configuration, the run is resumed from its latest intact checkpoint. If the data has
    random access, a resumed run returns bitwise the same result as an uninterrupted run. For data from iterators, see
    `jaxcnn.data.from_batches`.

    If the data has a validation set, or if `config.validation` is set, the validation set is evaluated after each
    epoch. The test set is then evaluated only once, with the best checkpoint. Without a validation set, the test set is
    evaluated after each epoch.

    After SIGTERM or SIGINT (Ctrl-C), the run finishes the current step, saves its state and stops. A second Ctrl-C
    stops the run at once.

    In a multi-process job, after `distributed.initialize`, every process must call this function with the same
    configuration. Only the first process writes files and prints. All processes return the same result.

    Args:
      config: the configuration of the run.
      data: your own dataset, in place of the dataset that `config.dataset` names. Make the dataset with
        `jaxcnn.data.from_arrays`, `from_table`, `from_folder`, `from_source` or `from_batches`.
      task: your own loss and metrics, in place of classification; see `jaxcnn.train.Task`.
      model: your own Linen module, `model(x, train=...) -> logits`, in place of the model that `config.model` names.
      loss: your own loss function, `(logits [N, classes], labels [N]) -> [N]`, in place of `config.loss`.
      augment: your own augmentation, `(key, image [H, W, C]) -> [H, W, C]`, in place of `config.augment`.
      optimizer: your own Optax gradient transformation, or a function `schedule -> transformation`, in place of
        `config.optimizer`.
      gradient: your own function that computes the gradient of the loss, `(loss, params) -> (gradients, aux)`; see
        `jaxcnn.train.gradient`.
      metrics: your own metrics by name, in addition to `config.metrics`. Each metric is a
        `jaxcnn.train.metrics.Metric`, or a function `(logits [N, classes], labels) -> [N]` whose mean is reported.
      callbacks: objects with methods such as `on_step` and `on_epoch`; see `jaxcnn.train.Callback`.
      console: console to print to. Default: standard output. With `progress=False`, `fit` prints nothing by default,
        and prints only the result if you pass a console.

    Raises:
      UsageError: if a value of the configuration is not valid. `fit` checks the configuration before it writes files.
        `fit` also raises `UsageError` if another process is training in the run directory, or if the processes of a job
        have different configurations or data.
      DivergedError: if the loss or the training state became infinite or NaN.
      SaveError: if a checkpoint could not be written.
      CorruptDeviceError: if `config.verify_every` is set, and a device made errors three times.
      InterruptedRunError: if SIGTERM or SIGINT has stopped the run.
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
    """Start or resume the run that a plan describes, and train its model as `fit` does.

    Args:
      plan: model, data, optimizer and other parts of the run.
      callbacks: objects with methods such as `on_step`; see `jaxcnn.train.Callback`.
      console: console to print to; see `fit`.
      started: time at which the run was started, in seconds of `time.perf_counter`. Default: now.
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
            done = f"has the state of step {first_step:,} of {plan.steps:,}. The run is resumed from this state."
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
        # A result.json of version 0.1 has no "stopped".
        if reason := values.get("stopped"):
            console.print(reason, highlight=False)
        # A result.json of version 0.1 has no "data_wait".
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
    """Return the versions of jaxcnn, Python, jax, jaxlib, flax and optax."""
    packages = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    return {"jaxcnn": __version__, "python": platform.python_version(), **packages}


def _recorded_preprocessing(config: Config) -> dict[str, Any] | None:
    """Return the preprocessing of the run in the run directory, as a JSON value, or None without such a run."""
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
    """Return one line that says why the run has ended before its last step, or None if the run has made all steps."""
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
      run: the training loop of the run.
      state: training state after the last step.
      test_step: step of the checkpoint that was tested.
      test: metrics of the test set.
      train: training metrics, averaged over the steps of the last epoch.
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
