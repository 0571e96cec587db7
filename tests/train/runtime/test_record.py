"""`metrics.jsonl` has each step once, whatever happened to its lines."""

import json

import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.train.config import Config
from jaxcnn.train.many._curves import curve
from jaxcnn.train.many.rows import Rows, rows_of_network
from jaxcnn.train.runtime import workdir
from jaxcnn.train.runtime._pictures import epoch_means
from jaxcnn.train.runtime.record import Record, read_lines, read_rows

STEPS, AT = 8, 5
"""Steps recorded so far, and the step of the checkpoint that the run is resumed from."""


def row(step, split="train"):
    return {"split": split, "step": step, "epoch": step / 10, "loss": 1.5 / step, "accuracy": 0.5}


def record(folder, first, last=STEPS):
    with Record(folder, first, lambda step: step / 10) as file:
        for step in range(first + 1, last + 1):
            file.write(row(step))
            if step in (4, 8):
                file.write(row(step, "test"))


@pytest.fixture
def run(tmp_path):
    """A run directory with the rows of eight steps, of which a checkpoint has five."""
    with workdir.claim(Config(workdir=str(tmp_path / "run"))) as folder:
        record(folder, 0)
    return folder


def changed_step(text):
    return text.replace('"step": 3', '"step": 4', 1)


DAMAGES = {
    "a renamed key": (lambda text: text.replace('"loss"', '"lozs"', 1), [1]),
    "a bare number": (lambda text: "5\n" + text, []),
    "null": (lambda text: "null\n" + text, []),
    "a text for a step": (lambda text: text.replace('"step": 2', '"step": "2"', 1), [2]),
    "another step": (changed_step, [3]),
    "another number": (lambda text: text.replace("0.75", "0.76", 1), [2]),
    "no JSON": (lambda text: text.replace("{", "<", 1), [1]),
    "nested deeply": (lambda text: "[" * 100_000 + "\n" + text, []),
    "an empty line": (lambda text: "\n" + text, []),
    "twice": (lambda text: text + text, []),
    "a line is gone": (lambda text: text.partition("\n")[2], [1]),
    "nothing": (lambda text: "", [1, 2, 3, 4, 5]),
    "cut off behind the checkpoint": (lambda text: text[:-30], []),
    "a last line that is lost": (lambda text: "".join(text.splitlines(keepends=True)[:5]), [5]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_after_damage_a_resumed_run_has_each_step_once_and_reports_what_is_lost(run, damage, caplog):
    how, lost = DAMAGES[damage]
    whole = read_rows(run)
    path = run / "metrics.jsonl"
    path.write_text(how(path.read_text()))
    record(run, AT)
    rows = read_rows(run)
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, STEPS + 1))
    assert [row for row in rows if "loss" in row] == [
        row for row in whole if row["step"] not in lost or (row["split"] == "test" and damage != "nothing")
    ]
    assert [row for row in rows if "loss" not in row] == [
        {"split": "train", "step": step, "epoch": step / 10} for step in lost
    ]
    assert len(caplog.records) == bool(lost)
    assert all("metrics.jsonl has no rows for" in said.getMessage() for said in caplog.records)
    assert read_lines(run).damaged == []


def test_sound_rows_behind_a_damaged_line_are_kept(run):
    path = run / "metrics.jsonl"
    path.write_text(changed_step(path.read_text()))
    lines = read_lines(run)
    assert (lines.damaged, len(lines.rows), lines.unchecked, lines.is_torn) == ([3], STEPS + 1, 0, False)


def test_rows_of_another_run_are_no_rows_of_this_one(run, tmp_path):
    with workdir.claim(Config(workdir=str(tmp_path / "other"), seed=1)) as other:
        record(other, 0)
    (run / "metrics.jsonl").write_text((other / "metrics.jsonl").read_text())
    assert read_rows(run) == []
    assert len(read_rows(other)) == STEPS + 2


def test_rows_without_a_checksum_are_read_and_counted(run):
    (run / "metrics.jsonl").write_text("".join(json.dumps(row(step)) + "\n" for step in (1, 2, 3)))
    assert read_rows(run) == [row(1), row(2), row(3)]
    assert read_lines(run).unchecked == 3


def test_a_folder_in_place_of_the_file_is_one_line(run):
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    with pytest.raises(UsageError, match=r"metrics\.jsonl cannot be read: Is a directory"):
        Record(run, 3)


def test_means_of_an_epoch_leave_out_lost_steps():
    rows = [row(1), {"split": "train", "step": 2, "epoch": 0.2}, row(3), row(3, "test")]
    (means,), _ = epoch_means(rows)
    assert means == {"epoch": 0.3, "loss": (1.5 + 0.5) / 2, "accuracy": 0.5}
    assert epoch_means([]) == ([], [])


def test_a_curve_is_aligned_by_epoch_where_a_network_lacks_a_row():
    whole, lacking = [[{"epoch": epoch, "loss": epoch} for epoch in epochs] for epochs in ((1.0, 2.0, 3.0), (1.0, 3.0))]
    found = curve([whole, lacking], "loss")
    np.testing.assert_array_equal(found.values, [[1, 2, 3], [1, np.nan, 3]])


def of_group(step):
    values = [{"loss": 1.0 + network} for network in range(2)]
    return {"split": "train", "step": step, "epoch": step / 10, "networks": values}


def test_rows_of_a_group_of_networks_survive_damage_too(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    with Rows(path, 0, 2, lambda step: step / 10) as file:
        file.write([of_group(step) for step in (1, 2, 3, 4)])
    path.write_text(path.read_text().replace('"step": 2', '"step": 3', 1) + "7\n")
    with Rows(path, 3, 2, lambda step: step / 10) as file:
        file.write([of_group(4)])
    found = list(rows_of_network(path, 1))
    assert [row["step"] for row in found] == [1, 2, 3, 4]
    assert [row.get("loss") for row in found] == [2.0, None, 2.0, 2.0]
    assert len(caplog.records) == 1
