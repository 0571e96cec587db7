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
"""Smallest number of networks for which processes are faster than turns on a CPU: each process starts and compiles."""


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
    """Train a network for each configuration (and seed), and return the results with statistics of each setting.

    Each network is a complete run, with the initial parameters, the data order and the steps of `fit(config)`. Its run
    directory is in `workdir`, and is named after the fields that differ, such as `seed=3,optimizer.learning_rate=0.1`.
    A setting is a set of configurations that differ only in seed. `sweep.json` has the mean, the standard deviation and
    the 95 % confidence interval of each metric for each setting. `sweep.png` shows the curves. If a network diverges,
    it is reported as diverged, and the others continue.

    If one program trains all networks, floating-point sums have another order than in a run of one network. A single
    step from the same state agrees to 1e-6 of the largest parameter. Over many steps, rounding errors grow: losses of
    LeNet-5 at batch 64 agree to 1e-3 for about 50 steps, and to 2e-2 after that. After 2 epochs (313 steps) parameters
    differ by 4 to 6 % of their norm, as they do between one device and two, and test accuracies by up to 0.3 percentage
    points, where seeds have a standard deviation of 0.5. With "together", each network has the dropout of a run on one
    device.

    On two CPU cores (`python -m benchmarks.many --networks 1,10,100`: LeNet-5, batch 64, 157 steps, with the start of
    the process; AMD EPYC), one network takes 7 s in turns, ten take 24 s in turns, 21 s in processes and 19 s together,
    and a hundred take 149 s, 71 s and 112 s.

    To resume after a stop or a kill, repeat the call with the same `workdir`: finished networks are kept, and the
    others resume from their checkpoints. You can add seeds or configurations later.

    Args:
      configs: what to train. `workdir` of a configuration must be None.
      seeds: train each configuration with each of these seeds, instead of its own.
      workdir: directory of all run directories. Default: a new one in runs/.
      together: how to train:

        - "together": one program trains all networks that differ only in seed, learning rate, weight decay, label
          smoothing and initial scale. Networks without weight decay have their own program. The networks are divided
          over the devices, and share one copy of the images. Checkpoints of all networks are saved after each epoch.
        - "turns": one network after another, each on all devices. Networks that differ only in seed share their
          compiled programs.
        - "processes": several processes, each on its part of the CPU cores. Only on a CPU.
        - "auto": "together" on accelerators and on several devices, unless there are callbacks, a profile, a sharded
          state, or data from iterators. On one CPU device, "processes" for four networks or more, if there are several
          cores and no callbacks, and if all parts can be pickled. Otherwise "turns".
      data, task, model, loss, augment, optimizer, gradient, metrics: as in `fit`, for all networks.
      callbacks: as in `fit`; not with "together". All networks call the same objects; with "processes", each process
        calls copies.
      console: where to print; standard output by default. With `progress=False`, the table is printed to a console that
        is given, and nothing is printed otherwise.

    Raises:
      UsageError: if a configuration cannot work or two are the same run, before anything is written; or if the
        directory is in use, or holds other files.
      RunError: if a process fails.
      InterruptedSweepError: if a signal asked to stop.
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
        raise UsageError("there is nothing to train: no configuration or no seed. Give at least one of each.")
    for index, config in enumerate(given):
        if not isinstance(config, Config):
            raise UsageError(f"configuration {index} is a {type(config).__name__}. Give jaxcnn.train.Config objects.")
        if config.workdir is not None:
            raise UsageError(
                f"workdir of a configuration is chosen by its name: {config.workdir}. Set fit_many(workdir=...)."
            )
    chosen = given
    if seeds is not None:
        chosen = [dataclasses.replace(config, seed=seed) for config in given for seed in seeds]
    if len(chosen) > MOST_NETWORKS:
        raise UsageError(f"there are too many networks: {len(chosen):,}. Train at most {MOST_NETWORKS:,} at once.")
    for config in chosen:
        validate(config)
        if config.wandb:
            check_wandb()
    return chosen


def _choose(
    together: str, networks: Sequence[Network], parts: CustomParts, data: Dataset | None, callbacks: tuple[Any, ...]
) -> str:
    """Return the method of training: "together", "turns" or "processes"."""
    if together not in get_args(How):
        raise unknown_name("way to train (together)", together, get_args(How))
    devices = jax.local_devices()
    is_cpu = devices[0].platform == "cpu"
    if jax.process_count() > 1:
        raise UsageError(f"fit_many needs one process, there are {jax.process_count()}. Start it in one of them only.")
    if together == "processes":
        if not is_cpu:
            raise UsageError(
                "together='processes' needs a CPU, since processes cannot share an accelerator. Use 'turns'."
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
    """Return what prevents one program from training all networks, or None."""
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
    """Make a plan for each group of networks that can share a program, before anything is written.

    Raises:
      UsageError: if a configuration cannot work.
    """
    kinds = {program_key(network.config): network for network in networks}
    for network in kinds.values():
        plan = plans.plan(network)
        if how == "together" and not isinstance(plan.pipeline, Pipeline):
            raise UsageError("together='together' cannot have data from iterators. Use 'turns'.")
    obstacle = _obstacle(networks, None, callbacks) if how == "together" else None
    if obstacle is not None:
        raise UsageError(f"together='together' cannot have {obstacle}. Use 'turns'.")


def _metric_of_curves(results: Results) -> str:
    """Return the metric of evaluations to draw: the one that chooses checkpoints."""
    return next((run.values["monitor"] for run in results.runs if run.values.get("monitor")), "accuracy")


def _next_free(config: Config) -> Path:
    """Return the first of `runs/sweep-MODEL-DATASET-1`, `-2`, ... that does not exist."""
    name, number = f"sweep-{config.model}-{run_directory.short_name(config.dataset)}", 1
    while (Path("runs") / f"{name}-{number}").exists():
        number += 1
    return Path("runs") / f"{name}-{number}"
