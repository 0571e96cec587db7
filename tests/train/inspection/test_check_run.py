"""`check_run` names each damaged file of a run, and changes nothing."""

import json
import shutil

import pytest

from jaxcnn.cli import main
from jaxcnn.errors import UsageError
from jaxcnn.train import Config, OptimizerConfig, check_run
from jaxcnn.train.runtime import workdir
from jaxcnn.train.runtime.checkpoint import Checkpoints, to_host
from jaxcnn.train.runtime.plan import make_plan

STEP = 60
"""Step of the one checkpoint of `lenet_run`."""


@pytest.fixture
def run(lenet_run, tmp_path):
    return shutil.copytree(lenet_run.workdir, tmp_path / "run")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def content_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_sound_run_has_no_damage_and_nothing_is_changed(run):
    before = content_of(run)
    findings = check_run(run)
    assert {finding.status for finding in findings} == {"sound"}
    files = [finding.file for finding in findings]
    assert {"config.json", "preprocessing.json", "data.json", "result.json", "metrics.jsonl", "curves.png"} <= {*files}
    assert f"checkpoints/{STEP}" in files
    assert any(name.startswith("events.out.tfevents.") for name in files)
    assert content_of(run) == before


def files_to_damage(run):
    files = (path for path in (run / "checkpoints").rglob("*") if path.is_file())
    checkpoint = max(files, key=lambda path: path.stat().st_size)
    names = ["config.json", "preprocessing.json", "data.json", "result.json", "metrics.jsonl", "curves.png"]
    return [*(run / name for name in names), *run.glob("events.*"), checkpoint]


DAMAGES = {
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damaged_file_is_named_in_one_line_and_the_others_are_sound(run, tmp_path, damage):
    for path in files_to_damage(run):
        if damage == "removed" and path.name.startswith("events."):
            continue  # a run may be made without TensorBoard
        copy = shutil.copytree(run, tmp_path / "copy")
        DAMAGES[damage](copy / path.relative_to(run))
        name = path.name if path.parent == run else f"checkpoints/{STEP}"
        before = content_of(copy)
        named = [finding for finding in check_run(copy) if finding.status != "sound"]
        # The identity of the run, with which the others are compared, is in the configuration.
        assert name in {finding.file for finding in named}, (damage, path)
        if name != "config.json":
            assert [finding.file for finding in named] == [name], named
        optional = damage == "removed" and name in ("preprocessing.json", "data.json", "result.json")
        assert all(finding.status == "damaged" or optional for finding in named) or name == "config.json"
        assert all("\n" not in finding.detail for finding in named)
        assert content_of(copy) == before
        shutil.rmtree(copy)


def test_a_checkpoint_under_the_name_of_another_step_is_damaged(run):
    shutil.copytree(run / "checkpoints" / f"{STEP}", run / "checkpoints" / "80")
    (damaged,) = [finding for finding in check_run(run) if finding.status == "damaged"]
    assert (damaged.file, damaged.detail) == ("checkpoints/80", f"the checkpoint holds the state of step {STEP}")


def test_a_checkpoint_that_the_result_refers_to_is_missed(run):
    (run / "checkpoints" / f"{STEP}").rename(run.parent / "60")
    (damaged,) = [finding for finding in check_run(run) if finding.status == "damaged"]
    assert damaged.file == f"checkpoints/{STEP}"
    assert damaged.detail.startswith("missing")


def test_a_configuration_of_another_run_is_named(run, tmp_path):
    with workdir.claim(Config(workdir=str(tmp_path / "other"), seed=1)) as other:
        shutil.copy(other / "config.json", run / "config.json")
    damaged = {finding.file: finding.detail for finding in check_run(run) if finding.status == "damaged"}
    assert damaged["config.json"] == "belongs to another run than all other files. Restore the file."


def test_files_without_checksums_are_unchecked(run):
    values = json.loads((run / "config.json").read_text())
    del values["sha256"]
    (run / "config.json").write_text(json.dumps(values))
    (found,) = [finding for finding in check_run(run) if finding.status != "sound"]
    assert (found.file, found.status) == ("config.json", "unchecked")


def test_a_run_that_has_just_begun_or_was_killed_is_sound(tmp_path):
    with workdir.claim(Config(workdir=str(tmp_path / "run"))) as folder:
        pass
    assert not [finding for finding in check_run(folder) if finding.status == "damaged"]
    (folder / "metrics.jsonl").write_text('{"split": "tr')
    (metrics,) = [finding for finding in check_run(folder) if finding.file == "metrics.jsonl"]
    assert metrics.status == "sound"
    assert "incomplete" in metrics.detail


def test_the_arrays_of_every_optimizer_are_verified_without_the_model(tmp_path):
    for name in ("sgd", "adam", "muon"):
        plan = make_plan(Config(optimizer=OptimizerConfig(name), ema_decay=0.9))
        folder = tmp_path / name / "checkpoints"
        folder.parent.mkdir()
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(to_host(plan.initial_state()), {})
            checkpoints.wait()
            checkpoints.verify(0)


def test_the_command_prints_findings_and_returns_1_on_damage(run, capsys):
    assert main(["check", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("sound  config.json")
    flip(run / "result.json")
    assert main(["check", str(run), "--json"]) == 1
    out, err = capsys.readouterr()
    assert err == f"jaxcnn: {run} is damaged: result.json\n"
    findings = json.loads(out)
    assert [finding["file"] for finding in findings if finding["status"] == "damaged"] == ["result.json"]


def test_a_wrong_path_is_refused(tmp_path, capsys):
    assert main(["check", str(tmp_path / "gone")]) == 2
    assert main(["check", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    with pytest.raises(UsageError, match="holds no run"):
        check_run(tmp_path)
