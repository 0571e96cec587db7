"""Train many networks: `fit_many`."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
from rich.console import Console

from jaxcnn.data import Dataset, Pipeline
from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.local_path import local_folder
from jaxcnn.train.callbacks import check_callbacks
from jaxcnn.train.config import Config, validate
from jaxcnn.train.gradient import Gradient
from jaxcnn.train.many import _curves
from jaxcnn.train.many.folder import SWEEP, Sweep, claimed
from jaxcnn.train.many.groups import Network, Plans, program_key
from jaxcnn.train.many.names import directory_names
from jaxcnn.train.many.processes import available_cores, pickled_job
from jaxcnn.train.many.results import Results
from jaxcnn.train.many.ways import in_one_program, in_processes, in_turns
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime import workdir as run_directory
from jaxcnn.train.runtime.callbacks import check_wandb
from jaxcnn.train.runtime.data_identity import with_name_of_data
from jaxcnn.train.task import Task

How = Literal["auto", "together", "turns", "processes"]

PICTURE = "sweep.png"

MOST_NETWORKS = 10_000

PROCESSES_FROM = 4
"""With fewer networks, "turns" is faster than "processes" on a CPU, since each process must start and compile."""


def fit_many(
    configs: Config | Sequence[Config],
    *,
    seeds: Sequence[int] | None = None,
    workdir: str | Path | None = None,
    together: How = "auto",
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
) -> Results:
    """Train a network for each configuration and seed, and return the results with statistics of each setting.

    Each network is a complete run, with the initial parameters, the data order and the steps of `fit(config)`. Each
    network has a run directory in `workdir`, named after the fields that differ: `seed=3,optimizer.learning_rate=0.1`.
    A setting is a set of configurations that differ only in seed. `sweep.json` contains the mean, the standard
    deviation and the 95 % confidence interval of each metric for each setting. `sweep.png` shows the learning curves.
    If a network diverges, it is reported as diverged, and training of the other networks continues.

    With `together="together"`, floating-point sums are added in another order than in `fit`. After a single step from
    the same state, the parameters agree to 1e-6 of the largest parameter. Over many steps, rounding errors grow. The
    losses of LeNet-5 at batch size 64 agree to 1e-3 for about 50 steps, and to 2e-2 after that. After 2 epochs (313
    steps), parameters differ by 4 to 6 % of their norm, about as much as between `fit` on one device and on two
    devices. Test accuracies differ by up to 0.3 percentage points; their standard deviation over seeds is 0.5 points.
    Each network gets the dropout masks of `fit` on one device.

    Wall-clock times on two cores of an AMD EPYC CPU for LeNet-5, batch size 64 and 157 steps, including the start of
    the process (`python -m benchmarks.many --networks 1,10,100`):

    - 1 network: 7 s with "turns".
    - 10 networks: 24 s with "turns", 21 s with "processes" and 19 s with "together".
    - 100 networks: 149 s with "turns", 71 s with "processes" and 112 s with "together".

    To resume a sweep that was stopped or killed, repeat the call with the same `workdir`. Finished networks are kept,
    and the other networks resume from their checkpoints. The repeated call may have additional seeds or configurations.

    Args:
      configs: one configuration or several configurations. The field `workdir` of each configuration must be None.
      seeds: train each configuration with each of these seeds. Default: the seed of each configuration.
      workdir: directory that contains all run directories. Default: a new directory in `runs/`.
      together: how to train the networks:

        - "together": one compiled program trains all networks that differ only in seed, learning rate, weight decay,
          label smoothing and initial scale. Networks with a weight decay of 0 need a second program. The networks are
          sharded over the devices, and share one copy of the images. Checkpoints are saved after each epoch.
        - "turns": train one network after another, each on all devices. Networks that differ only in seed share their
          compiled programs.
        - "processes": train in several processes, each on its own CPU cores. Only for CPUs.
        - "auto": on accelerators and on several devices, choose "together"; but choose "turns" if there are callbacks,
          a profile, a sharded state, verification, or data from iterators. On one CPU device, choose "processes" for
          four networks or more, if there are several cores and no callbacks, and if the arguments can be pickled. In
          all other cases, choose "turns".
      data, task, model, loss, augment, optimizer, gradient, metrics: your own parts, for all networks; see `fit`.
      callbacks: objects with methods such as `on_step`; see `fit`. "together" does not support callbacks. With "turns",
        all networks share these objects. With "processes", each process has its own copies of the objects.
      console: console to print to. Default: standard output. With `progress=False`, `fit_many` prints nothing by
        default, and prints only the table of results if you pass a console.

    Raises:
      UsageError: if a value of a configuration is not valid, or if two configurations are equal. `fit_many` checks the
        configurations before it writes files. `fit_many` also raises `UsageError` if another process uses `workdir`, or
        if `workdir` contains files that do not belong to a sweep.
      RunError: if a worker process fails.
      InterruptedSweepError: if SIGTERM or SIGINT has stopped the sweep.
    """
    started = time.perf_counter()
    parts = CustomParts(model, loss, augment, optimizer, task, gradient, metrics)
    chosen = [run_directory.with_absolute_paths(with_name_of_data(c, data)) for c in _expanded(configs, seeds)]
    names = directory_names(chosen)
    folder = _next_free(chosen[0]) if workdir is None else local_folder("workdir", workdir)
    folder = folder.absolute()
    networks = [
        Network(name, dataclasses.replace(config, workdir=str(folder / name)))
        for name, config in zip(names, chosen, strict=True)
    ]
    own_callbacks = check_callbacks(callbacks)
    how = _choose(together, networks, parts, data, own_callbacks)
    first_device = jax.local_devices()[:1] if how == "together" else None
    plans = Plans(parts, data, first_device)
    _check(networks, plans, how, own_callbacks)
    shows = chosen[0].progress
    printer = console or Console()
    with claimed(folder, how, networks) as earlier:
        sweep = Sweep(folder, networks, parts, how, earlier, started, printer if shows else None)
        todo = [network for network in networks if network.name not in sweep.ended]
        sweep.write()
        if how == "processes":
            in_processes(sweep, todo, parts, data, own_callbacks)
        elif how == "together":
            in_one_program(sweep, todo, plans, printer)
        else:
            in_turns(sweep, todo, plans, own_callbacks)
        results = sweep.results()
        run_directory.write_sealed(folder / SWEEP, results.to_json())
        with run_directory.writing(folder), run_directory.replacing(folder / PICTURE) as picture:
            _curves.draw(results, _metric_of_curves(results), picture)
    if shows or console is not None:
        printer.print(results.table(), markup=False, emoji=False, highlight=False, soft_wrap=True)
    return results


def _expanded(configs: Config | Sequence[Config], seeds: Sequence[int] | None) -> list[Config]:
    """Return one configuration for each network."""
    given = [configs] if isinstance(configs, Config) else list(configs)
    if not given or (seeds is not None and not len(seeds)):
        raise UsageError(
            "configs or seeds is empty. Give at least one configuration, and at least one seed or seeds=None."
        )
    for index, config in enumerate(given):
        if not isinstance(config, Config):
            raise UsageError(f"configuration {index} is a {type(config).__name__}. Give jaxcnn.train.Config objects.")
        if config.workdir is not None:
            raise UsageError(
                f"configuration {index} has workdir {config.workdir!r}, but fit_many chooses the run directories. "
                "Remove workdir from the configuration, and set fit_many(workdir=...) instead."
            )
    chosen = given
    if seeds is not None:
        chosen = [dataclasses.replace(config, seed=seed) for config in given for seed in seeds]
    if len(chosen) > MOST_NETWORKS:
        raise UsageError(f"too many networks: {len(chosen):,}. Train at most {MOST_NETWORKS:,} at once.")
    for config in chosen:
        validate(config)
        if config.wandb:
            check_wandb()
    return chosen


def _choose(
    together: str, networks: Sequence[Network], parts: CustomParts, data: Dataset | None, callbacks: tuple[Any, ...]
) -> str:
    """Return how to train the networks: "together", "turns" or "processes"."""
    if together not in get_args(How):
        raise unknown_name("value of together", together, get_args(How))
    devices = jax.local_devices()
    is_cpu = devices[0].platform == "cpu"
    if jax.process_count() > 1:
        raise UsageError(
            f"fit_many does not run in a multi-process JAX job, got {jax.process_count()} processes. Call fit_many in "
            "a single process."
        )
    if together == "processes":
        if not is_cpu:
            raise UsageError(
                "together='processes' needs a CPU, since processes cannot share an accelerator. Use together='turns'."
            )
        pickled_job(parts, data, callbacks)
    if together != "auto":
        return together
    if not is_cpu or len(devices) > 1:
        return "turns" if _obstacle(networks, data, callbacks) else "together"
    if callbacks or len(networks) < PROCESSES_FROM or len(available_cores()) == 1:
        return "turns"
    try:
        pickled_job(parts, data, callbacks)
    except UsageError:
        return "turns"
    return "processes"


def _obstacle(networks: Sequence[Network], data: Dataset | None, callbacks: tuple[Any, ...]) -> str | None:
    """Return the feature that "together" does not support, such as "callbacks", or None without one."""
    configs = [network.config for network in networks]
    if callbacks:
        return "callbacks"
    if any(config.profile is not None for config in configs):
        return "a profile"
    if any(config.shard_state for config in configs):
        return "a sharded state"
    if any(config.verify_every is not None for config in configs):
        return "verification"
    if data is not None and not data.random_access:
        return "data from iterators"
    return None


def _check(networks: Sequence[Network], plans: Plans, how: str, callbacks: tuple[Any, ...]) -> None:
    """Make a plan for each group of networks that can share a compiled program, before files are written.

    Raises:
      UsageError: if a value of a configuration is not valid.
    """
    kinds = {program_key(network.config): network for network in networks}
    for network in kinds.values():
        plan = plans.plan(network)
        if how == "together" and not isinstance(plan.pipeline, Pipeline):
            raise UsageError("together='together' does not support data from iterators. Use together='turns'.")
    obstacle = _obstacle(networks, None, callbacks) if how == "together" else None
    if obstacle is not None:
        raise UsageError(f"together='together' does not support {obstacle}. Use together='turns'.")


def _metric_of_curves(results: Results) -> str:
    """Return the name of the evaluated metric to draw: the metric that chooses the best checkpoint."""
    return next((run.values["monitor"] for run in results.runs if run.values.get("monitor")), "accuracy")


def _next_free(config: Config) -> Path:
    """Return the first of `runs/sweep-MODEL-DATASET-1`, `runs/sweep-MODEL-DATASET-2`, ... that does not exist."""
    name, number = f"sweep-{config.model}-{run_directory.short_name(config.dataset)}", 1
    while (Path("runs") / f"{name}-{number}").exists():
        number += 1
    return Path("runs") / f"{name}-{number}"
