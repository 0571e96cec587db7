"""Train the networks of a sweep one after another, in several processes, or together in one compiled program."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from jaxcnn.data import Dataset
from jaxcnn.train.api import train_plan
from jaxcnn.train.config import differences, to_dict
from jaxcnn.train.many.folder import Sweep
from jaxcnn.train.many.groups import Network, Plans, program_key
from jaxcnn.train.many.processes import train_in_processes
from jaxcnn.train.many.together import MEMBERS, PREFIX, Group
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime import workdir as run_directory
from jaxcnn.train.runtime._progress import ProgressDisplay
from jaxcnn.train.runtime.integrity import DivergedError
from jaxcnn.train.runtime.signals import InterruptedRunError, StopSignals


class InterruptedSweepError(InterruptedRunError):
    """Raised when a signal has stopped `fit_many`. The state of each unfinished network has been saved.

    >>> error = InterruptedSweepError(number=2, finished=3, networks=8, workdir=Path("sweep"))
    >>> print(*str(error).split(". "), sep="\\n")
    stopped with 3 of 8 networks finished; the others are saved
    To resume: call fit_many with the same configurations and workdir='sweep'
    """

    def __init__(self, number: int, finished: int, networks: int, workdir: Path):
        super().__init__(number, finished, networks, workdir)
        self.how = f"call fit_many with the same configurations and workdir={str(workdir)!r}"
        self._done = f"stopped with {finished:,} of {networks:,} networks finished; the others are saved"

    def __str__(self) -> str:
        return f"{self._done}. To resume: {self.how}"


def in_turns(sweep: Sweep, todo: Sequence[Network], plans: Plans, callbacks: tuple[Any, ...]) -> None:
    for network in todo:
        try:
            train_plan(_quiet(plans, network), callbacks=callbacks)
            diverged = None
        except DivergedError as error:
            diverged = str(error)
        except InterruptedRunError as error:
            number = error.exit_status - 128
            raise InterruptedSweepError(number, len(sweep.ended), len(sweep.networks), sweep.folder) from error
        sweep.report(network, diverged)


def _quiet(plans: Plans, network: Network) -> Any:
    """Return the plan of a network with `progress=False`, so that its run prints nothing."""
    plan = plans.plan(network)
    return dataclasses.replace(plan, config=dataclasses.replace(plan.config, progress=False))


def in_processes(
    sweep: Sweep, todo: Sequence[Network], parts: CustomParts, data: Dataset | None, callbacks: tuple[Any, ...]
) -> None:
    if not todo:
        return
    quiet = [Network(n.name, dataclasses.replace(n.config, progress=False)) for n in todo]
    with StopSignals() as stop:
        ended = train_in_processes(quiet, parts, data, callbacks, stop, sweep.report)
        if not ended and stop.received is not None:
            raise InterruptedSweepError(stop.received, len(sweep.ended), len(sweep.networks), sweep.folder)


def in_one_program(sweep: Sweep, todo: Sequence[Network], plans: Plans, printer: Console) -> None:
    for members in _groups(sweep, todo):
        with StopSignals() as stop:
            group = Group(members, plans, sweep.folder, jax.local_devices(), stop)
            try:
                _train_group(sweep, group, plans, printer)
            except InterruptedRunError as error:
                number = error.exit_status - 128
                raise InterruptedSweepError(number, len(sweep.ended), len(sweep.networks), sweep.folder) from error


def _train_group(sweep: Sweep, group: Group, plans: Plans, printer: Console) -> None:
    networks = group.networks
    if sweep.console is not None:
        devices = f"{group.programs.mesh.size} device{'s' if group.programs.mesh.size > 1 else ''}"
        sweep.console.print(f"{len(networks)} networks in one program on {devices}", highlight=False)
    with ProgressDisplay(
        printer,
        steps=group.plan.steps,
        first_step=0,
        batch_size=group.plan.batch_size * len(networks),
        enabled=sweep.console is not None,
    ) as display:
        progress = group.train(display)
    for network, of_network in zip(networks, progress, strict=True):
        if network.name in sweep.ended:
            continue
        if of_network.diverged is None:
            train_plan(_quiet(plans, network))  # no steps are left: this call evaluates and writes the result
        sweep.report(network, of_network.diverged)
    group.remove()


def _groups(sweep: Sweep, todo: Sequence[Network]) -> list[list[Network]]:
    """Divide networks into groups that share a compiled program: first the groups of an earlier start."""
    groups = []
    left = {network.name: network for network in todo}
    every = {network.name: network for network in sweep.networks}
    for path in sorted(sweep.folder.glob(f"{PREFIX}*/{MEMBERS}")):
        remedy = f"Remove the folder {path.parent}, and train its networks from the start."
        members = run_directory.read_sealed(path, remedy).values
        known = all(name in every and not differences(members[name], to_dict(every[name].config)) for name in members)
        if known and not any(name in left for name in members):
            shutil.rmtree(path.parent, ignore_errors=True)  # a killed process has left the folder of a finished group
        elif known:
            groups.append([every[name] for name in members])
            for name in members:
                left.pop(name, None)
    by_program: dict[str, list[Network]] = {}
    for network in left.values():
        by_program.setdefault(program_key(network.config), []).append(network)
    return [*groups, *by_program.values()]
