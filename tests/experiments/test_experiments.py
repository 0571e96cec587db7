"""Experiments: measured once, kept, drawn from what was measured; and the training of several seeds side by side."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

from experiments import __main__ as command
from experiments import experiment as experiments
from experiments import gallery, run
from experiments.experiment import Conclusion, Experiment, is_above, load_experiments
from experiments.training import Images, load_images, train
from jaxcnn import UsageError
from jaxcnn.data import from_arrays
from jaxcnn.data.statistics import Statistics
from jaxcnn.errors import RunError
from jaxcnn.layers import Conv, Dense, Dropout, Flatten, Sequential

MEASURED = []


def configs(budget):
    return [{"rate": rate, "dataset": "none"} for rate in (1, 2, 3)]


def measure(config, seeds):
    MEASURED.append(config["rate"])
    return {"accuracy": np.float32(config["rate"]) / (1 + np.arange(len(seeds))), "worst": np.array([np.nan, np.inf])}


def figures(measurements):
    return {"line": Figure()}


def conclusion(measurements):
    return Conclusion("yes", f"{len(measurements)} measurements")


@pytest.fixture
def made_up():
    MEASURED.clear()
    return Experiment("C99", configs, measure, figures, conclusion)


@pytest.fixture
def quiet(tmp_path):
    return {"folder": tmp_path / "out" / "made_up", "kept": tmp_path / "kept", "report": lambda line: None}


def test_measurements_are_not_repeated(made_up, quiet):
    first = run.run(made_up, "small", [0, 1], **quiet)
    assert MEASURED == [1, 2, 3]
    assert run.run(made_up, "small", [0, 1], **quiet)["measurements"] == first["measurements"]
    assert MEASURED == [1, 2, 3]
    run.run(made_up, "small", [0, 1, 2], **quiet)  # other seeds are other measurements
    assert MEASURED == [1, 2, 3] * 2
    run.run(made_up, "small", [0, 1], fresh=True, **quiet)
    assert MEASURED == [1, 2, 3] * 3


def test_an_interrupted_run_resumes_and_keeps_the_old_results_until_it_is_done(made_up, quiet):
    old = run.run(made_up, "small", [0], **quiet)

    def interrupted(config, seeds):
        if config["rate"] == 3:
            raise KeyboardInterrupt
        return measure(config, seeds)

    stopped = dataclasses.replace(made_up, measure=interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run(stopped, "small", [0, 1], **quiet)
    assert run.read(quiet["folder"]) == old
    MEASURED.clear()
    run.run(made_up, "small", [0, 1], **quiet)
    assert MEASURED == [3]


def test_drawing_and_wording_anew_measures_nothing_but_other_code_does(made_up, quiet, monkeypatch):
    whole = load_experiments()["learning_rate"].source
    assert "optax.sgd" in whole
    for drawn_or_worded in ("**Question.**", "legend(", "conclude("):
        assert drawn_or_worded not in whole
    source = made_up.source
    run.run(made_up, "small", [0], **quiet)
    MEASURED.clear()
    monkeypatch.setattr(Experiment, "source", property(lambda self: source + "\n# changed"))
    run.run(made_up, "small", [0], **quiet)
    assert MEASURED == [1, 2, 3]


def test_results_are_json_whose_numbers_that_are_none_come_back_as_nan(made_up, quiet):
    run.run(made_up, "small", [0, 1], **quiet)
    text = (quiet["folder"] / "results.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    measurement = run.measurements_of(run.read(quiet["folder"]))[1]
    np.testing.assert_array_equal(measurement["accuracy"], [2, 1])
    assert np.isnan(measurement["worst"]).all()


@pytest.mark.parametrize("field", ["conclusion", "measurements", "seeds", "figures", "machine", "command"])
def test_results_without_a_part_are_refused(made_up, quiet, field):
    results = run.run(made_up, "small", [0], **quiet)
    run.check(results)
    for broken in ({**results, field: None}, {k: v for k, v in results.items() if k != field}):
        with pytest.raises(UsageError, match=field):
            run.check(broken)


@pytest.mark.parametrize(
    ("content", "match"),
    [(None, "Run python -m experiments made_up"), ("{", "damaged"), ("[]", "not an object")],
)
def test_missing_or_damaged_results_are_reported_in_one_line(tmp_path, content, match):
    folder = tmp_path / "made_up"
    folder.mkdir()
    if content is not None:
        (folder / "results.json").write_text(content)
    with pytest.raises(UsageError, match=match) as error:
        run.read(folder)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_reported(made_up, quiet, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        run.run(made_up, "small", [0], **{**quiet, "folder": tmp_path / "file" / "made_up"})
    with pytest.raises(UsageError, match="cannot be written"):
        run.run(made_up, "small", [0], **{**quiet, "kept": tmp_path / "file"})


# The experiments themselves.


def test_every_claim_has_one_file_that_says_what_it_asks():
    found = load_experiments()
    assert [e.claim for e in found.values()] == [f"C{n}" for n in range(1, 14)]
    for name, experiment in found.items():
        assert experiment.title, name
        for part in ("**Question.**", "**Varied.**", "**Expected.**"):
            assert part in experiment.text, (name, part)


@pytest.mark.parametrize("budget", experiments.BUDGETS)
@pytest.mark.parametrize("name", load_experiments())
def test_configurations_are_json_and_differ(name, budget):
    made = load_experiments()[name].configs(budget)
    assert len({json.dumps(config, sort_keys=True) for config in made}) == len(made) > 0
    assert all(isinstance(config["dataset"], str) for config in made)


def test_the_gallery_is_what_the_committed_results_make_and_shows_each():
    page = gallery.page()
    assert gallery.PAGE.read_text() == page
    for name, experiment in load_experiments().items():
        results = run.read(run.RESULTS / name)
        assert results["budget"] == "small"
        assert len(results["seeds"]) >= 3
        assert experiment.title in page
        for picture in results["figures"]:
            assert f"(results/{name}/{picture})" in page
            assert (run.RESULTS / name / picture).stat().st_size < 400_000
    assert sum(file.stat().st_size for file in run.RESULTS.rglob("*")) < 6_000_000


def test_findings_and_figures_follow_from_the_committed_numbers():
    for name, experiment in load_experiments().items():
        results = run.read(run.RESULTS / name)
        made = experiment.conclusion(run.measurements_of(results))
        assert {"confirmed": made.confirmed, "text": made.text} == results["conclusion"], name


# The command.


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["dropuot"], "did you mean 'dropout'"),
        (["C3", "--budget", "smal"], "did you mean 'small'"),
        (["C3", "--seeds", "0"], "at least 1"),
        (["redraw", "--out", "nowhere"], "Run python -m experiments"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(capsys, monkeypatch, tmp_path, args, match):
    monkeypatch.chdir(tmp_path)
    assert command.main(args) == 2
    error = capsys.readouterr().err
    assert match in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_lists_the_claims_and_checks_the_gallery(capsys, monkeypatch, tmp_path):
    assert command.main(["list"]) == 0
    assert capsys.readouterr().out.count("\n") == 13
    assert command.main(["gallery", "--check"]) == 0
    monkeypatch.setattr(gallery, "PAGE", tmp_path / "README.md")
    assert command.main(["gallery", "--check"]) == 1
    assert command.main(["gallery"]) == 0
    assert command.main(["gallery", "--check"]) == 0


# Training.

NETWORK = Sequential([Conv(4, 3), Flatten(), Dropout(0.3), Dense(3)])


@pytest.fixture(scope="module")
def images():
    """Three classes that are told apart by which third of the rows is bright, in noise."""
    random = np.random.default_rng(0)

    def split(count):
        labels = random.integers(0, 3, count).astype(np.int32)
        pixels = random.integers(0, 120, (count, 6, 6, 1))
        pixels += 100 * (np.arange(6)[:, None, None] // 2 == labels[:, None, None, None])
        return pixels.astype(np.uint8), labels

    train, test, names = split(90), split(25), ("top", "middle", "bottom")
    data = from_arrays(train=train, validation=(train[0][:40], train[1][:40]), test=test, class_names=names)
    return Images(train, test, Statistics((0.3,), (0.2,)), names, data)


def mean_kernel(state, batch):
    return {"kernel": abs(state.params["layers_0"]["kernel"]).mean(), "images": batch["image"].mean()}


@pytest.mark.usefixtures("compile_quickly")
@pytest.mark.parametrize("tests", [4, (0, 3, 20)])
def test_each_seed_has_curves_tests_and_probes(images, tests):
    done = train(
        NETWORK, images, optax.adam(0.01), steps=20, batch_size=16, seeds=[3, 5], tests=tests, probe=mean_kernel
    )
    assert done.loss.shape == done.accuracy.shape == (2, 20)
    assert done.tests["test_accuracy"].shape == done.probes["kernel"].shape == (2, len(done.test_steps))
    np.testing.assert_allclose(
        done.probes["kernel"][1, -1], mean_kernel(done.states[1], {"image": images.train[0]})["kernel"]
    )
    assert done.params == 4 * 9 + 4 + 16 * 4 * 3 + 3
    assert done.test_accuracy.min() > 0.6
    assert abs(done.loss[0] - done.loss[1]).max() > 1e-2


@pytest.mark.usefixtures("compile_quickly")
def test_a_seed_decides_everything_alone(images):
    options = {"steps": 6, "batch_size": 16, "tests": 1}
    together = train(NETWORK, images, optax.sgd(0.1), seeds=[0, 1], **options)
    alone = train(NETWORK, images, optax.sgd(0.1), seeds=[1], **options)
    np.testing.assert_array_equal(together.loss[1:], alone.loss)


@pytest.mark.usefixtures("compile_quickly")
def test_tests_count_every_image_once(images):
    """Against the network applied to all test images at once."""
    done = train(NETWORK, images, optax.sgd(0.1), steps=3, batch_size=16, seeds=[0], tests=1)
    logits = NETWORK.apply({"params": done.states[0].params}, images.normalize(images.test[0]), train=False)
    assert done.test_accuracy[0] == pytest.approx(float((logits.argmax(-1) == images.test[1]).mean()))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, images.test[1])
    assert done.tests["test_loss"][0, -1] == pytest.approx(float(losses.mean()), rel=1e-5)


@pytest.mark.usefixtures("compile_quickly")
def test_a_network_that_diverges_has_its_curve_to_the_end(images):
    done = train(NETWORK, images, optax.sgd(1e20), steps=8, batch_size=16, seeds=[0], tests=2)
    assert not np.isfinite(done.loss[0, -1])
    assert done.values()["final_test_accuracy"].shape == (1,)


@pytest.mark.usefixtures("compile_quickly")
def test_a_network_that_diverges_before_its_first_test_has_its_initial_state(images):
    done = train(NETWORK, images, optax.sgd(1e20), steps=300, batch_size=16, seeds=[0], tests=1)
    assert np.isnan(done.tests["test_accuracy"]).all()
    np.testing.assert_allclose(done.test_accuracy, 1 / 3)  # by chance
    assert np.isfinite(done.states[0].params["layers_0"]["kernel"]).all()
    with pytest.raises(RunError, match="diverged before the first test"):
        train(NETWORK, images, optax.sgd(1e20), steps=300, batch_size=16, seeds=[0], tests=1, probe=mean_kernel)


@pytest.mark.usefixtures("compile_quickly")
def test_a_long_curve_is_thinned_by_means(images):
    done = train(Sequential([Flatten(), Dense(3)]), images, optax.sgd(0.1), steps=450, batch_size=8, seeds=[0], tests=1)
    values = done.values()
    assert len(values["steps"]) == 150
    assert values["steps"][-1] == 450
    np.testing.assert_allclose(values["batch_loss"][0], done.loss.reshape(-1, 3).mean(1), rtol=1e-5)


def test_images_can_be_few_and_small():
    whole, small = load_images("fashion_mnist_mini"), load_images("fashion_mnist_mini[:50]", shrink=2, examples=30)
    assert small.train[0].shape == (30, 14, 14, 1)
    assert small.test[0].shape == (50, 14, 14, 1)
    assert small.test[0][7, 3, 4, 0] == whole.test[0][7, 6:8, 8:10, 0].mean().round()
    np.testing.assert_array_equal(small.train[1], whole.train[1][:30])


def test_a_difference_counts_beyond_its_error():
    assert is_above([0.90, 0.91, 0.92], [0.80, 0.85, 0.83])
    assert not is_above([0.80, 0.85, 0.83], [0.90, 0.91, 0.92])
    assert not is_above([0.90, 0.80, 0.70], [0.79, 0.85, 0.73])
    assert is_above([0.9], [0.8])


def test_the_commands_of_results_are_run_from_the_repository(made_up, quiet):
    assert Path(run.RESULTS).parent.name == "experiments"
    command_line = run.run(made_up, "small", [0, 1], **quiet)["command"]
    assert command_line.startswith("python -m experiments ")
    assert command_line.endswith("--budget small --seeds 2")


@pytest.mark.usefixtures("compile_quickly")
def test_the_experiment_in_contributing_runs(quiet, tmp_path, monkeypatch):
    text = (Path(run.RESULTS).parents[1] / "CONTRIBUTING.md").read_text()
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "EXPERIMENT = " in code]
    (tmp_path / "strides.py").write_text(code)
    monkeypatch.setattr(experiments.claims, "__path__", [str(tmp_path)])
    try:
        results = run.run(experiments.find_experiment("strides"), "tiny", [0, 1], **quiet)
    finally:
        sys.modules.pop("experiments.claims.strides", None)
    assert results["title"] == "Strides can replace pooling without loss of accuracy"
    assert (quiet["folder"] / "accuracy.png").exists()
    assert len(results["measurements"]) == 2
