"""`fit` trains on real images, tests on every test image, and writes everything about the run to its directory."""

import dataclasses
import json
import math
import platform
import shutil
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxcnn import startup
from jaxcnn.data.pipeline import Pipeline
from jaxcnn.errors import UsageError
from jaxcnn.train import Config, DivergedError, OptimizerConfig, evaluate, fit
from jaxcnn.train.devices.parallel import Parallel
from jaxcnn.train.runtime import _stopwatch
from jaxcnn.train.runtime.record import read_rows

# 79 steps of 128 images are an epoch of the 10,000; 90 have one test at an epoch's end and one at the run's.
SHORT = Config(steps=90, batch_size=128, progress=False, log_every=7)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(dataclasses.replace(SHORT, workdir=str(tmp_path_factory.mktemp("run"))))


def leaves(state):
    return jax.device_get(jax.tree.leaves(state))


def assert_equal(a, b):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_few_steps_already_beat_guessing_by_far(run):
    assert run.test_accuracy > 0.6  # ten classes: guessing gives 0.1
    assert math.isfinite(run.test_loss)


def test_every_test_image_counts(run):
    assert run.test_examples == 2000
    # Accuracy is a whole number of 2,000 images, which it would not be over padded batches.
    assert abs(run.test_accuracy * 2000 - round(run.test_accuracy * 2000)) < 1e-6


def test_the_folder_holds_everything(run):
    result = json.loads((run.workdir / "result.json").read_text())
    wanted = "model dataset steps epochs seconds images_per_second test_accuracy test_loss test_examples params"
    assert set(wanted.split()) <= set(result)
    assert (result["model"], result["steps"], result["params"]) == ("lenet5", 90, 61_706)
    assert result["epochs"] == pytest.approx(90 * 128 / 10_000)
    assert json.loads((run.workdir / "config.json").read_text())["batch_size"] == 128
    assert (run.workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list(run.workdir.glob("events.out.tfevents.*"))
    assert (run.workdir / "checkpoints" / "90").is_dir()
    assert not list(run.workdir.glob(".*"))  # no temporary files


def test_metrics_have_each_step_once_and_each_test(run):
    rows = read_rows(run.workdir)
    train = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in train] == list(range(1, 91))
    assert train[0]["learning_rate"] == pytest.approx(SHORT.optimizer.learning_rate)
    assert [(row["step"], row["examples"]) for row in rows if row["split"] == "test"] == [(79, 2000), (90, 2000)]


def test_the_same_seed_gives_the_same_parameters_to_the_last_bit(run, tmp_path):
    assert_equal(run.state, fit(dataclasses.replace(SHORT, workdir=str(tmp_path))).state)


@pytest.mark.slow
def test_another_seed_gives_others(run, tmp_path):
    other = fit(dataclasses.replace(SHORT, seed=1, steps=2, workdir=str(tmp_path)))
    assert not np.array_equal(leaves(run.state.params)[0], leaves(other.state.params)[0])


def test_a_run_that_was_cut_off_goes_on_to_the_same_end(run, tmp_path):
    config = dataclasses.replace(SHORT, workdir=str(tmp_path))
    fit(config)
    # What a run looks like that was killed before its last checkpoint was complete.
    (tmp_path / "result.json").unlink()
    for path in sorted((tmp_path / "checkpoints" / "90").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "checkpoints" / "90").rmdir()
    continued = fit(config)
    assert_equal(run.state, continued.state)
    assert [row["step"] for row in read_rows(tmp_path) if row["split"] == "train"] == list(range(1, 91))


def test_the_first_batch_takes_no_time_of_steps(tmp_path, monkeypatch):
    late = 0.0
    monkeypatch.setattr(_stopwatch, "time", SimpleNamespace(perf_counter=lambda: time.perf_counter() + late))
    batches = Pipeline.batches

    def slow_at_first(self, first_step, **how):
        nonlocal late
        for number, batch in enumerate(batches(self, first_step, **how)):
            late += 1000.0 if number == 0 else 0.0
            yield batch

    monkeypatch.setattr(Pipeline, "batches", slow_at_first)
    values = fit(dataclasses.replace(SHORT, steps=3, workdir=str(tmp_path))).values
    assert values["first_batch_seconds"] > 1000
    assert values["compile_seconds"] < 1000
    assert 2 * 128 / values["images_per_second"] < 1000  # seconds of the steps behind the one that compiled


def test_a_run_that_only_lacks_its_result_gets_it(tmp_path):
    config = dataclasses.replace(SHORT, steps=2, progress=True, workdir=str(tmp_path))
    first = fit(config, console=Console(quiet=True))
    (tmp_path / "result.json").unlink()
    again = fit(config, console=Console(quiet=True))
    assert again.test_accuracy == first.test_accuracy
    assert again.values["train_loss"] == first.values["train_loss"]


def test_a_finished_run_is_not_run_again(run):
    again = fit(run.config)
    assert_equal(run.state, again.state)
    assert again.values == run.values


def test_another_configuration_in_the_folder_is_refused_by_its_fields(run):
    other = dataclasses.replace(run.config, seed=7, optimizer=OptimizerConfig(learning_rate=0.2))
    with pytest.raises(UsageError, match=r"optimizer.learning_rate: .* -> 0.2; seed: 0 -> 7"):
        fit(other)


def test_eval_gives_what_training_reported(run):
    values = evaluate(run.workdir)
    assert values["step"] == 90
    assert values["test_examples"] == 2000
    assert values["test_accuracy"] == run.test_accuracy
    assert values["test_loss"] == pytest.approx(run.test_loss)


def test_a_diverging_run_stops_with_its_step_and_keeps_no_bad_checkpoint(tmp_path):
    config = dataclasses.replace(
        SHORT, optimizer=OptimizerConfig("sgd", learning_rate=1e6), workdir=str(tmp_path), steps=200
    )
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step \d+; the run has no checkpoint yet"):
        fit(config)
    assert not (tmp_path / "result.json").exists()
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]


def test_a_first_loss_that_is_not_finite_is_not_blamed_on_the_learning_rate(tmp_path):
    config = dataclasses.replace(SHORT, workdir=str(tmp_path), steps=1)
    with pytest.raises(DivergedError, match=r"the loss is nan at step 1; .* the cause is in the model, the loss or"):
        fit(config, loss=lambda logits, labels: logits[:, 0] * float("nan"))


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        fit(dataclasses.replace(SHORT, workdir=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"workdir cannot be used: .*Not a directory"):
        fit(dataclasses.replace(SHORT, workdir=str(tmp_path / "file" / "run")))


def test_mistakes_are_found_before_the_folder_is_touched(tmp_path):
    for wrong in ({"model": "lenet"}, {"batch_size": 100}, {"steps": 0}, {"augment": ("spin",)}):
        with pytest.raises(UsageError):
            fit(dataclasses.replace(SHORT, workdir=str(tmp_path / "new"), **wrong))
        assert not (tmp_path / "new").exists()


def test_progress_is_a_line_an_epoch_and_a_table_on_eighty_columns(tmp_path):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    fit(dataclasses.replace(SHORT, workdir=str(tmp_path), progress=True), console=console)
    console.file.close()
    text = console.export_text()
    lines = [line for line in text.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    assert all("images/s" in line for line in lines)
    assert "2,000 of 2,000 test images" in text
    assert "61,706" in text


@pytest.mark.parametrize("parallel", ["shard_map", pytest.param("jit", marks=pytest.mark.slow)])
def test_every_strategy_ends_at_the_same_parameters(run, tmp_path, parallel):
    other = fit(dataclasses.replace(SHORT, steps=3, parallel=parallel, workdir=str(tmp_path / parallel)))
    pmap = fit(dataclasses.replace(SHORT, steps=3, workdir=str(tmp_path / "pmap")))
    for x, y in zip(leaves(other.state.params), leaves(pmap.state.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


@pytest.mark.parametrize(
    "parallel", ["pmap", *(pytest.param(name, marks=pytest.mark.slow) for name in ("shard_map", "jit"))]
)
def test_steps_and_tests_take_batches_that_are_on_the_devices_already(tmp_path, monkeypatch, parallel):
    compile_program = Parallel.compile

    def guarded(self, *args, **options):
        program, calls = compile_program(self, *args, **options), 0

        def call(state, batches):
            nonlocal calls
            calls += 1
            with jax.transfer_guard("disallow_explicit" if calls > 1 else "allow"):  # compiling transfers constants
                return program(state, batches)

        return call

    monkeypatch.setattr(Parallel, "compile", guarded)
    config = dataclasses.replace(SHORT, steps=7, steps_per_dispatch=2, parallel=parallel, workdir=str(tmp_path))
    assert fit(config).test_examples == 2000


def test_a_result_says_whether_the_process_was_settled(run):
    assert run.values["settled"] is False
    assert run.values["freed_memory"] == "returned"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere memory is left to the system")
def test_a_run_that_settling_would_speed_up_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXCNN_KEEP_MEMORY", raising=False)
    monkeypatch.setattr(startup, "SMALLEST_BATCH_TO_KEEP_MEMORY", 1000)
    config = dataclasses.replace(SHORT, steps=1, batch_size=8, progress=True, workdir=str(tmp_path / "run"))
    with (tmp_path / "output").open("w") as file:
        fit(config, console=Console(width=300, file=file))
    lines = (tmp_path / "output").read_text().splitlines()
    assert len([line for line in lines if "call jaxcnn.startup.settle() before JAX starts" in line]) == 1


@pytest.mark.parametrize("damage", [{"params": "many"}, {"test_accuracy": None}, {"stopped": 3}, {"data_wait": [1]}])
def test_a_damaged_result_is_one_line_and_is_written_again_without_it(damage, lenet_run, tmp_path):
    run = shutil.copytree(lenet_run.workdir, tmp_path / "run")
    stored = json.loads((run / "result.json").read_text())
    del stored["sha256"]  # as in a result of an earlier version
    (run / "result.json").write_text(json.dumps({**stored, **damage}))
    config = dataclasses.replace(lenet_run.config, workdir=str(run))
    with pytest.raises(UsageError, match="is damaged"):
        fit(config)
    (run / "result.json").unlink()
    assert fit(config).values["state_sha256"] == stored["state_sha256"]
