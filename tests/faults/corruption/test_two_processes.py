"""Flipped bits in runs of two processes: both find them, go back together, and end with the right bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from live.trials import free_port

from corruption.of_two import EVERY, TRIALS

FAULTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_two_processes_undo_a_flipped_bit_in_one_of_them(tmp_path):
    path = os.pathsep.join(map(str, (FAULTS.parents[1], FAULTS)))
    env = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-m", "corruption.of_two", f"127.0.0.1:{free_port()}"]
    started = [
        subprocess.Popen(
            [*command, str(index), str(tmp_path)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=570)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    first, second = (json.loads((tmp_path / f"{index}.json").read_text()) for index in range(2))
    devices = first["devices"]
    assert len(devices) == 2
    for trial, other, (_, fault, check, is_named) in zip(first["trials"], second["trials"], TRIALS, strict=True):
        assert trial["failures"] == other["failures"] == []
        assert trial["outcome"] == other["outcome"] == "undone", trial
        assert trial["found"] == other["found"]
        (row,) = trial["found"]
        assert (row["step"], row["found_at"]) == (fault.step // EVERY * EVERY, (fault.step // EVERY + 1) * EVERY)
        assert (row["check"], row["device"]) == (check, devices[fault.device] if is_named else None), trial
