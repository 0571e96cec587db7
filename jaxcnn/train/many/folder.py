"""The directory of a sweep: lock it, find the networks that have ended, and write `sweep.json`."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxcnn.errors import UsageError, printable
from jaxcnn.train.config import differences, to_dict
from jaxcnn.train.many.groups import Network
from jaxcnn.train.many.results import NetworkResult, Results, format_metric
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime import workdir as run_directory

SWEEP = "sweep.json"
REMEDY = "Remove the file and run the same command again, which writes a new file."


@contextlib.contextmanager
def claimed(folder: Path, how: str, networks: Sequence[Network]) -> Iterator[dict[str, Any]]:
    """Lock the directory of a sweep for this process, and yield the values of its `sweep.json`.

    If the file `sweep.json` does not exist, yield an empty dict.

    Raises:
      UsageError: if the directory contains files that do not belong to a sweep, if another process uses the directory,
        or if the sweep was started with another value of `together`.
    """
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(run_directory.exclusive(folder))
            has_files = any(not path.name.startswith(".") for path in folder.iterdir())
        except OSError as error:
            raise UsageError(
                f"workdir {folder} cannot be written: {error.strerror}. Choose another workdir."
            ) from error
        path = folder / SWEEP
        if not path.exists() and has_files:
            raise UsageError(f"{folder} is not empty and has no {SWEEP}. Choose another workdir.")
        earlier = run_directory.read_sealed(path, REMEDY).values if path.exists() else {}
        if not _is_sweep(earlier):
            raise UsageError(f"{path} is damaged: a value is missing or wrong. {REMEDY}")
        before = earlier.get("how", how)
        if (before == "together") != (how == "together") and _is_unfinished(networks):
            raise UsageError(
                f"the sweep in {folder} was started with together={before!r}, not {how!r}. Use together={before!r}, or "
                "choose another workdir."
            )
        yield earlier


def _is_sweep(values: dict[str, Any]) -> bool:
    """Return whether the values of a `sweep.json` are valid. An empty dict is valid."""
    runs = values.get("runs", [])
    needed = {"name", "diverged", "config"}
    are_runs = isinstance(runs, list) and all(isinstance(run, dict) and needed <= run.keys() for run in runs)
    return are_runs and isinstance(values.get("seconds", 0.0), int | float)


def _is_unfinished(networks: Sequence[Network]) -> bool:
    """Return whether any network was started and has no `result.json`."""
    folders = [network.folder for network in networks]
    return any((f / run_directory.CONFIG).exists() and not (f / run_directory.RESULT).exists() for f in folders)


class Sweep:
    """Collect the results of the networks of a sweep, in memory and in `sweep.json`.

    Args:
      folder: the directory of the sweep.
      networks: all networks of the sweep.
      parts: custom parts that were passed to `fit_many`, such as a model.
      how: how the networks are trained: "together", "processes" or "turns".
      earlier: the values of an existing `sweep.json`, or an empty dict.
      started: time at which this process started, in seconds of `time.perf_counter`.
      console: console on which to print a line for each network, or None to print nothing.

    Attributes:
      ended: dict from the name of each network that has ended to the reason why the network diverged, or to None if the
        network did not diverge.
    """

    def __init__(
        self,
        folder: Path,
        networks: Sequence[Network],
        parts: CustomParts,
        how: str,
        earlier: dict[str, Any],
        started: float,
        console: Console | None,
    ):
        self.folder, self.networks, self.how, self.console = folder, networks, how, console
        self.started = started - earlier.get("seconds", 0.0)
        diverged = {run["name"]: (run["diverged"], run["config"]) for run in earlier.get("runs", []) if run["diverged"]}
        self.ended: dict[str, str | None] = {}
        for network in networks:
            reason, of_config = diverged.get(network.name, (None, None))
            if reason is not None and not differences(of_config, to_dict(network.config)):
                self.ended[network.name] = reason
            elif is_finished(network, parts):
                self.ended[network.name] = None

    def report(self, network: Network, diverged: str | None) -> None:
        """Record that a network has ended. `diverged` is the reason if the network diverged, else None."""
        self.ended[network.name] = diverged
        self.write()
        if self.console is not None:
            what = f"diverged: {diverged}"
            if diverged is None:
                values = run_directory.read_result(network.folder)
                what = f"{_summary(values)}  {values['seconds']:.1f} s"
            line = f"{len(self.ended):>3} of {len(self.networks)}  {network.name}  {what}"
            self.console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)

    def results(self) -> Results:
        """Return the results of the sweep so far."""
        runs = []
        for network in self.networks:
            diverged = self.ended.get(network.name)
            has_result = network.name in self.ended and diverged is None
            values = run_directory.read_result(network.folder) if has_result else {}
            runs.append(NetworkResult(network.name, network.config, network.folder, values, diverged))
        return Results(self.folder, tuple(runs), self.how, time.perf_counter() - self.started)

    def write(self) -> None:
        """Write the results so far to `sweep.json`."""
        with run_directory.writing(self.folder):
            run_directory.write_sealed(self.folder / SWEEP, self.results().to_json())


def is_finished(network: Network, parts: CustomParts) -> bool:
    """Return whether the run directory of a network has a `result.json` for the network's configuration."""
    folder = network.folder
    if not (folder / run_directory.RESULT).exists():
        return False
    stored, wanted = run_directory.stored_config(folder), to_dict(parts.recorded(network.config))
    if network.config.init_from is not None:
        wanted["init_from"] = stored.get("init_from")  # do not read the file only to compute its hash
    if differences(stored, wanted):
        return False
    values, config = run_directory.read_result(folder), network.config
    made = values["steps"] >= config.steps if config.steps else values["epochs"] >= config.epochs * (1 - 1e-9)
    return made or values.get("stopped") is not None


def _summary(values: dict[str, Any]) -> str:
    """Return the test accuracy, or else the test loss, of a `result.json` as text."""
    name = "accuracy" if values.get("test_accuracy") is not None else "loss"
    value = values.get(f"test_{name}")
    return "" if value is None else f"test {name} {format_metric(name, value)}"
