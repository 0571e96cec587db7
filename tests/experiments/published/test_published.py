"""Results of recipes: what is stored of a run, which runs are refused, and the table in the README."""

import dataclasses
import json

import pytest

from benchmarks.report import with_table
from benchmarks.results import read_lines
from experiments.published import __main__ as command
from experiments.published import entries, page, predictions, store
from experiments.published.entries import ENTRIES, Entry
from jaxcnn.errors import UsageError
from jaxcnn.train import Config, fit

STEPS = 30


class Short(Entry):
    """An entry whose recipe trains LeNet-5 for few steps on the images that come with the package."""

    def config(self, seed):
        recipe = Config(steps=STEPS, batch_size=32, evaluate_every=15)
        return dataclasses.replace(recipe, **dict(self.changes), seed=seed)


@pytest.fixture(scope="module")
def entry():
    changes = (("label_smoothing", 0.1), ("augment", ("flip", "shift:1")))
    return Short("short_changed", "short", "LeNet-5", "clothing", 0.5, "aim", changes)


@pytest.fixture(scope="module")
def run(entry, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit(dataclasses.replace(entry.config(seed=3), workdir=str(folder), progress=False))
    return folder


def test_an_entry_is_its_recipe_with_changes():
    shifted = entries.find("mnist_lenet5_shifted")
    config, plain = shifted.config(seed=3), entries.find("mnist_lenet5").config(seed=3)
    assert config == dataclasses.replace(plain, augment=("shift:2",))
    words = ["--config", "experiments/recipes/mnist_lenet5.py", "--augment", "shift:2", "--seed", "3"]
    assert shifted.command(3) == ["jaxcnn", "train", *words]


def test_what_is_stored_names_no_path_of_the_machine(entry, run):
    values = store.collect(entry, run, is_shared=False)
    assert str(run.parent) not in json.dumps(values)
    result = json.loads((run / "result.json").read_text())
    assert values["test_accuracy"] == result["test_accuracy"]
    assert values["seconds"] == round(STEPS * 32 / result["images_per_second"], 1)
    assert [row["step"] for row in values["tests"]] == [15, STEPS]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    assert [row["loss"] for row in values["training"]] == pytest.approx(losses, abs=1e-5)
    shared = store.collect(entry, run, is_shared=True)
    assert [shared[name] for name in store.TIMES] == [None, None, None]


def test_a_long_curve_is_thinned_to_means_of_its_parts(monkeypatch):
    monkeypatch.setattr(store, "POINTS", 3)
    rows = [{"epoch": i, "loss": float(i), "accuracy": 0.0} for i in range(1, 8)]
    thinned = store._thinned(rows)
    assert [row["epoch"] for row in thinned] == [2, 5, 7]
    assert [row["loss"] for row in thinned] == [1.5, 4.0, 6.5]


def test_a_run_of_another_configuration_and_an_unfinished_one_are_refused(entry, run, tmp_path):
    other = dataclasses.replace(entry, changes=(("label_smoothing", 0.2), *entry.changes[1:]))
    with pytest.raises(UsageError, match=r"It differs in label_smoothing: 0\.1 -> 0\.2"):
        store.collect(other, run, is_shared=False)
    with pytest.raises(UsageError, match="run is not finished"):
        store.collect(entry, tmp_path, is_shared=False)


def test_the_table_has_mean_and_deviation_and_only_entries_with_results(entry, run, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "ENTRIES", (entry, ENTRIES[0]))
    assert page.table(tmp_path) == page.EMPTY
    values = store.collect(entry, run, is_shared=True)
    for seed, accuracy in ((0, 0.81), (1, 0.83)):
        store.write(entry, {**values, "seed": seed, "test_accuracy": accuracy}, tmp_path)
    rows = [line for line in page.table(tmp_path, "here").splitlines() if line.startswith("| ")]
    measured = "| 50.00 % (aim) | 82.00 % ± 1.41 | 2 | - | float32 | [short_changed](here/short_changed) |"
    assert rows[2:] == [f"| LeNet-5 | clothing {measured}"]
    figure = page.figure(entry, store.read(entry, tmp_path))
    assert len(figure.axes[0].lines) == 2 * 2 + 1


def test_an_outdated_table_is_found(entry, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "ENTRIES", (entry,))
    readme = tmp_path / "README.md"
    readme.write_text(with_table(f"a\n{page.BEGIN}\n{page.END}\nb\n", "old", page.BEGIN, page.END))
    flags = ["table", "--results", str(tmp_path / "results"), "--readme", str(readme)]
    assert command.main([*flags, "--check"]) == 1
    assert "is outdated" in capsys.readouterr().err
    assert command.main(flags) == 0
    assert command.main([*flags, "--check"]) == 0
    assert readme.read_text().splitlines()[2] == page.EMPTY


def test_unknown_entries_and_seeds_are_one_line(capsys):
    assert command.main(["run", "mnist_lenet"]) == 2
    assert "mnist_lenet5" in capsys.readouterr().err
    assert command.main(["run", "mnist_lenet5", "--seeds", "a"]) == 2
    assert "--seeds must be whole numbers" in capsys.readouterr().err
    assert command.main(["run"]) == 2


@pytest.mark.parametrize("found", ENTRIES, ids=lambda found: found.name)
def test_every_entry_has_a_recipe(found):
    assert found.config(seed=1).seed == 1


def test_every_recipe_is_run_or_predicted():
    recipes = {path.stem for path in entries.RECIPES.glob("*.py")}
    assert recipes == {entry.recipe for entry in ENTRIES} | predictions.TARGETS.keys()
    assert not {entry.recipe for entry in ENTRIES} & predictions.TARGETS.keys()


def test_a_recipe_that_is_predicted_says_that_it_was_not_run():
    for recipe in predictions.TARGETS:
        assert "Not run here" in (entries.RECIPES / f"{recipe}.py").read_text(), recipe


@pytest.mark.parametrize(("recipe", "steps"), [("imagenet_googlenet", 2_400_000), ("imagenet_resnet50", 450_411)])
def test_steps_of_a_dataset_that_is_not_prepared(recipe, steps):
    assert predictions.steps_of(predictions.config_of(recipe)) == steps  # 90 x 1,281,167 / 256, rounded up


def test_the_page_of_predictions_is_that_of_the_stored_rows():
    rows = read_lines(predictions.PREDICTIONS)
    assert [row["recipe"] for row in rows] == [*predictions.TARGETS]
    assert (predictions.PREDICTIONS / "README.md").read_text() == predictions.page(rows)
    for row in rows:
        config = predictions.config_of(row["recipe"])
        assert row["steps"] == predictions.steps_of(config)
        assert (row["report"]["dtype"], row["report"]["batch_size"]) == (config.dtype, config.batch_size)
        assert row["hours"] == pytest.approx(row["steps"] * row["report"]["step_seconds"] / 3600)
