"""The campaign of flipped bits: many trials of `injection`, resumably, and their report."""

import collections
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
# Verifications of several devices compile their programs twice.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
from live.trials import options, run_trials, save_report, versions

from corruption import injection

DEVICES = 4
"""Virtual CPU devices."""

EXAMPLES_OF_MISSES = 40
"""Number of misses of the cheaper mode that the report lists."""


def main(words: list[str]) -> int:
    """Make the trials that are still to be made, and write the report. Return 1 if there is any failure."""
    flags = options("injection", words, 1000, "trials")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    with tempfile.TemporaryDirectory() as folder, injection.open_runs(Path(folder)) as runs:
        trials = run_trials(flags, lambda seed, number: vars(injection.run_trial(runs, seed, number)))
    return save_report(flags.report, report_of(trials, flags.seed))


def report_of(trials: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Return the counts of trials, the delays, the misses by kind, and every failure with its number."""
    modes = {mode: [trial for trial in trials if trial["mode"] == mode] for mode in injection.MODES}
    return {
        "command": f"python tests/faults/campaign.py injection --seed {seed} --count {len(trials)}",
        "trials": len(trials),
        "failures": [trial for trial in trials if trial["failures"]],
        "steps": injection.STEPS,
        "verify_every": injection.EVERY,
        "settings": dict(collections.Counter(trial["setting"] for trial in trials)),
        "modes": {mode: _of_mode(found) for mode, found in modes.items()},
        "versions": versions(("jax", "jaxlib", "flax", "optax")),
    }


def _of_mode(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the outcomes of the trials of one mode."""
    found = [trial for trial in trials if trial["found"]]
    missed = [trial for trial in trials if trial["outcome"] == "missed"]
    delays = sorted(trial["delay"] for trial in found)
    kinds = {kind: [t for t in trials if t["fault"]["kind"] == kind] for kind in injection.KINDS}
    named = [bool(trial["found"][0]["device"]) for trial in found]
    return {
        "trials": len(trials),
        "outcomes": _outcomes(trials),
        "by_kind": {kind: _outcomes(of_kind) for kind, of_kind in kinds.items()},
        "by_setting": {
            setting: _outcomes([trial for trial in trials if trial["setting"] == setting])
            for setting in sorted({trial["setting"] for trial in trials})
        },
        "found_by": dict(collections.Counter(trial["found"][0]["check"] for trial in found).most_common()),
        "device_named": {"yes": sum(named), "no": len(named) - sum(named)},
        "delay_in_steps": {"mean": round(statistics.mean(delays), 2), "largest": delays[-1]} if delays else None,
        "misses": [{"number": t["number"], "setting": t["setting"], **t["fault"]} for t in missed][:EXAMPLES_OF_MISSES],
    }


def _outcomes(trials: list[dict[str, Any]]) -> dict[str, int]:
    return dict(collections.Counter(trial["outcome"] for trial in trials).most_common())
