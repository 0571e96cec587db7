"""One of two processes whose runs get flipped bits; started by `test_two_processes.py`.

    of_two.py COORDINATOR INDEX FOLDER

Both processes make the same trials. Each writes what it found to `FOLDER/INDEX.json`.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax

from corruption import injection
from corruption.injection import EVERY, Fault, Setting
from jaxcnn.train.devices import distributed

SETTING = Setting("shard_map", 2, "float32")
TRIALS = (
    # A wrong parameter of one device spreads to both within a step, through the mean of the gradients.
    ("interval", Fault("parameter", 1, 1, "", 0, 0, 20), "replicas", False),
    ("interval", Fault("gradient", 5, 1, "", 1, 0, 30), "replay", False),
    ("interval", Fault("batch", 9, 1, "", 0, 5, 7), "replay", False),
    # Two copies differ, and the steps that are made again show which one is right.
    ("interval", Fault("optimizer slot", 2 * EVERY - 1, 0, "", 3, 0, 22), "replicas", True),
    ("interval", Fault("collective", EVERY - 1, 1, "", 1, 0, 27), "replicas", True),
    ("last", Fault("moving average", EVERY - 1, 1, "", 0, 0, 25), "replicas", True),
    ("last", Fault("gradient", 2 * EVERY - 1, 0, "", 1, 0, 30), "replay", False),
)
"""The mode, the fault, the check that finds it, and whether the device can be named."""


def main(coordinator: str, index: str, folder: str) -> None:
    distributed.initialize(coordinator, 2, int(index), heartbeat=300)
    trials = []
    with injection.open_runs(Path(folder)) as runs:
        for number, (mode, fault, *_) in enumerate(TRIALS):
            runs.prepare(SETTING, mode)
            trial = injection.Trial(0, number, str(SETTING), mode, dataclasses.asdict(fault))
            injection.inject(runs, trial, fault, SETTING, mode)
            trials.append(vars(trial))
    devices = [str(device) for device in jax.devices()]
    Path(folder, f"{index}.json").write_text(json.dumps({"devices": devices, "trials": trials}))


if __name__ == "__main__":
    main(*sys.argv[1:])
