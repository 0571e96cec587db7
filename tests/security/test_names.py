"""Names and metadata from files reach the terminal without control characters."""

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn import cli
from jaxcnn.train import Config
from jaxcnn.train.config import to_dict

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202ecat"
"""Sets a terminal's title, clears it, colors it by a C1 code, and turns the direction of writing."""


def harmless(text):
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images in classes with hostile names."""
    root = tmp_path_factory.mktemp("images") / f"set{HOSTILE}"
    for name in (HOSTILE, "dog"):
        (root / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (9, 9), (40 * number, 9, 9)).save(root / name / f"{number}{HOSTILE}.png")
    return root


def run(capfd, *args):
    status = cli.main([*map(str, args)])
    out, err = capfd.readouterr()
    assert harmless(out), repr(out)
    assert harmless(err), repr(err)
    return status, out + err


def test_folders_of_classes_with_hostile_names_are_refused(folder, tmp_path, capfd):
    data = ("--data-dir", tmp_path / "data")
    for command in ("stats", "show"):
        status, printed = run(capfd, "datasets", command, f"imagefolder:{folder}", *data)
        assert status == 2
        assert "unsupported name of a class folder" in printed


def test_names_of_classes_files_and_runs(folder, tmp_path, capfd):
    images, labels = np.arange(8 * 784, dtype=np.uint8).reshape(8, 28, 28), np.arange(8) % 2
    file, workdir = tmp_path / f"data{HOSTILE}.npz", tmp_path / f"run{HOSTILE}"
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels, class_names=[HOSTILE, r"$\frac$ dog"])
    flags = ("--steps", 2, "--tensorboard-images", 4, "--batch-size", 8, "--model", "lenet5", "--workdir", workdir)
    status, printed = run(capfd, "train", "--dataset", f"npz:{file}", *flags)
    assert (status, "\\x1b[2J" in printed) == (0, True), printed
    status, printed = run(capfd, "predict", folder, "--workdir", workdir)
    assert (status, "\\x1b[2J" in printed) == (0, True), printed
    status, printed = run(capfd, "eval", "--workdir", workdir, "--per-class")
    assert (status, "\\x1b[2J" in printed) == (0, True), printed
    assert run(capfd, "datasets", "stats", f"npz:{file}")[0] == 0
    assert run(capfd, "check", workdir)[0] == 0


def test_what_a_hostile_run_says_of_itself(tmp_path, capfd):
    run_ = tmp_path / "run"
    (run_ / "checkpoints").mkdir(parents=True)
    hostile = {**to_dict(Config()), "model": HOSTILE, HOSTILE: HOSTILE}
    (run_ / "config.json").write_text(json.dumps(hostile))
    (run_ / "result.json").write_text(json.dumps({"model": HOSTILE, "sha256": HOSTILE}))
    (run_ / f"events.out.tfevents.{HOSTILE}").write_bytes(b"x")
    assert run(capfd, "check", run_)[0] == 1
    for command in ("eval", "predict", "visualize"):
        assert run(capfd, command, *(["x.png"] if command == "predict" else []), "--workdir", run_)[0] == 2
    assert run(capfd, "train", "--workdir", run_)[0] == 2


@pytest.mark.parametrize(
    "args",
    [
        ["train", "--model", HOSTILE],
        ["train", "--dataset", HOSTILE],
        ["train", "--workdir", f"/proc/{HOSTILE}"],
        ["convert", f"/nowhere/{HOSTILE}"],
        ["summary", HOSTILE],
        [HOSTILE],
    ],
)
def test_what_the_user_typed_or_a_script_passed_on(args, capfd):
    assert run(capfd, *args)[0] == 2


WARNS = """
import sys
from jaxcnn.train.runtime.checkpoint import Checkpoints
import numpy as np, pathlib
from jaxcnn.train import TrainState
folder = pathlib.Path(sys.argv[1]) / ("checkpoints" + sys.argv[2])
state = lambda step: TrainState(np.int32(step), {"k": np.ones(3, np.float32)}, {}, {}, {}, np.zeros(2, np.uint32))
with Checkpoints(folder) as checkpoints:
    for step in (1, 2):
        checkpoints.save(state(step), {})
    checkpoints.wait()
    for path in (folder / "2" / "meta").iterdir():
        path.write_text("{}")
with Checkpoints(folder) as checkpoints:
    print(int(checkpoints.restore_newest(state(1))[0].step))
"""


def test_a_warning_of_a_damaged_checkpoint(tmp_path):
    env = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", WARNS, str(tmp_path), HOSTILE], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
    assert "is damaged" in done.stderr
    assert harmless(done.stderr)
