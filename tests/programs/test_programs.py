"""Ten short programs, as users write them, train, test on every example, and continue after they are killed."""

import importlib.util
import json
import random
import signal
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
TEST_EXAMPLES = 503
LINES = 30

PROGRAMS = {  # what the program prints, and the module that it needs
    "numpy_arrays": ("accuracy", None),
    "pandas_table": ("accuracy", "pandas"),
    "hugging_face": ("accuracy", None),
    "torch_loader": ("accuracy", "torch"),
    "generator": ("accuracy", None),
    "own_loss": ("focal loss", None),
    "own_metric": ("recall of shoes", None),
    "own_callback": ("callback StopAtAccuracy asked for it", None),
    "contrastive": ("effective rank", None),
    "segmentation": ("mean IoU", None),
}
KILLED_ALWAYS = ("numpy_arrays", "generator")
"""Programs whose resuming the normal suite tests: of data with random access, and of a stream."""


def cases(always=tuple(PROGRAMS)):
    """Return the programs as parameters. Those that are not in `always` are slow."""
    found = []
    for name, (_, module) in PROGRAMS.items():
        marks = [] if name in always else [pytest.mark.slow]
        if module is not None:
            marks.append(pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"needs {module}"))
        found.append(pytest.param(name, marks=marks))
    return found


@pytest.fixture(scope="module")
def straight(worker, tmp_path_factory):
    """Return the outcome of a program that nobody disturbs, and the folder of its run."""
    kept = {}

    def run(name):
        if name not in kept:
            workdir = tmp_path_factory.mktemp("straight") / name
            kept[name] = worker.run(FOLDER / f"{name}.py", workdir), workdir
        return kept[name]

    return run


def result_of(workdir):
    return json.loads((workdir / "result.json").read_text())


def test_there_are_ten_programs_of_at_most_thirty_lines():
    lines = {path.stem: len(path.read_text().splitlines()) for path in FOLDER.glob("*.py")}
    lines = {name: count for name, count in lines.items() if name not in ("conftest", "worker") and "test" not in name}
    assert sorted(lines) == sorted(PROGRAMS)
    assert max(lines.values()) <= LINES


@pytest.mark.parametrize("name", cases())
def test_a_program_trains_and_tests_every_example(name, straight):
    ended, workdir = straight(name)
    assert ended.status == 0, ended.printed[-3000:]
    assert PROGRAMS[name][0] in ended.printed
    assert f"{TEST_EXAMPLES} test images" in ended.printed
    assert "Warning" not in ended.printed
    result = result_of(workdir)
    assert result["test_examples"] == TEST_EXAMPLES
    assert result["steps"] == ended.steps
    losses = [row["loss"] for row in rows_of(workdir) if row["split"] == "train"]
    assert sum(losses[-3:]) < sum(losses[:3])


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", cases(KILLED_ALWAYS))
def test_a_program_that_is_killed_and_started_again_ends_with_the_same_bits(name, straight, worker, tmp_path):
    expected, workdir = straight(name)
    assert expected.status == 0, expected.printed[-3000:]
    chance, again = random.Random(name), tmp_path / name
    moment = {"kill_at": chance.randrange(1, expected.steps), "delay": chance.uniform(0, 0.1)}
    killed = worker.run(FOLDER / f"{name}.py", again, last=expected.steps, **moment)
    assert killed.status == -signal.SIGKILL
    assert not (again / "result.json").exists()
    ended = worker.run(FOLDER / f"{name}.py", again)
    assert ended.status == 0, ended.printed[-3000:]
    assert ended.printed == expected.printed
    assert 0 < ended.steps < expected.steps
    assert result_of(again)["state_sha256"] == result_of(workdir)["state_sha256"]
    assert rows_of(again) == rows_of(workdir)
