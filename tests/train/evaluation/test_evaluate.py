"""Evaluation: counts of classes that agree with the accuracy, other datasets, and checkpoints."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import open_dataset
from jaxcnn.errors import UsageError
from jaxcnn.layers import Conv, Dense, GlobalAvgPool, Sequential
from jaxcnn.train import Config, Trained, evaluate, evaluate_trained, evaluation_batches, load_run, open_test_set
from jaxcnn.train.runtime.checkpoint import Checkpoints
from jaxcnn.train.runtime.preprocessing import Preprocessing
from jaxcnn.train.state import TrainState


@pytest.fixture(scope="module")
def shades(tmp_path_factory):
    """Return the name of an image folder: 4 test images of dark, one of them bright, and 2 of bright, both bright."""
    root = tmp_path_factory.mktemp("shades")
    values = {"dark": (0, 10, 20, 250), "bright": (240, 255)}
    for split in ("train", "test"):
        for name, shades in values.items():
            (root / split / name).mkdir(parents=True)
            for index, value in enumerate(shades):
                Image.new("RGB", (5 + index, 6), (value,) * 3).save(root / split / name / f"{index}.png")
    return f"imagefolder:{root}"


@pytest.fixture
def brightness():
    """Return a network of the classes unused, dark and bright, which judges the mean of an image."""
    model = Sequential([Conv(1, 1), GlobalAvgPool(), Dense(3)])
    variables = {
        "params": {
            "layers_0": {"kernel": np.full((1, 1, 3, 1), 1 / 3, np.float32), "bias": np.zeros(1, np.float32)},
            "layers_2": {
                "kernel": np.array([[0.0, -20.0, 20.0]], np.float32),
                "bias": np.array([-30.0, 10.0, -10.0], np.float32),
            },
        }
    }
    names = ("unused", "dark", "bright")
    return Trained(Config(), model, variables, 7, Preprocessing((4, 4, 3), (0.0,) * 3, (1.0,) * 3, names))


def test_counts_of_classes_agree_with_the_accuracy_and_are_mapped_by_name(brightness, shades, tmp_path):
    values = evaluate_trained(brightness, open_test_set(brightness, shades, tmp_path))
    assert values["test_accuracy"] == pytest.approx(5 / 6)
    assert values["balanced_accuracy"] == pytest.approx((3 / 4 + 1) / 2)
    assert values["classes"] == [
        {"class": "unused", "precision": None, "recall": None, "f1": None, "examples": 0, "predicted": 0},
        {"class": "dark", "precision": 1.0, "recall": 0.75, "f1": pytest.approx(6 / 7), "examples": 4, "predicted": 3},
        {"class": "bright", "precision": pytest.approx(2 / 3), "recall": 1.0, "f1": 0.8, "examples": 2, "predicted": 3},
    ]
    assert "top_5_accuracy" not in values  # there are no more than five classes
    assert any("no images of 'unused'" in note for note in values["notes"])


def test_named_metrics_agree_with_the_counts_of_classes(brightness, shades, tmp_path):
    dataset = open_test_set(brightness, shades, tmp_path)
    values = evaluate_trained(brightness, dataset, metrics=("per_class", "confusion", "top2", "balanced_accuracy"))
    found, classes = values["metrics"], values["classes"]
    assert found["confusion"] == [[0, 0, 0], [0, 3, 1], [0, 0, 2]]
    assert found["top2"] == 1.0
    assert found["balanced_accuracy"] == values["balanced_accuracy"]
    for name in ("precision", "recall"):
        assert found["per_class"][name] == [row[name] for row in classes]
    assert found["per_class"]["support"] == [row["examples"] for row in classes]
    assert json.loads(json.dumps(values)) == values


def test_pixels_are_those_that_predict_sees(brightness, shades, tmp_path):
    dataset = open_test_set(brightness, shades, tmp_path)
    for channels in (3, 1):
        shape, numbers = (4, 4, channels), (0.5,) * channels
        preprocessing = Preprocessing(shape, numbers, numbers, ("unused", "dark", "bright"), crop_fraction=0.8)
        batches = list(evaluation_batches(dataset, preprocessing, 4))
        assert [mask.sum() for _, mask in batches] == [4, 2]
        images = np.concatenate([batch["image"] for batch, _ in batches])
        for place, example in enumerate(dataset.read_encoded("test", range(6))):
            np.testing.assert_array_equal(images[place], preprocessing.decode(example.image))


def test_processes_read_parts_of_each_batch(brightness, shades, tmp_path):
    dataset = open_test_set(brightness, shades, tmp_path)
    whole = list(evaluation_batches(dataset, brightness.preprocessing, 4))
    for part in range(2):
        halves = list(evaluation_batches(dataset, brightness.preprocessing, 4, (part, 2)))
        for half, batch in zip(halves, whole, strict=True):
            for mine, all_rows in zip(jax.tree.leaves(half), jax.tree.leaves(batch), strict=True):
                np.testing.assert_array_equal(mine, all_rows[2 * part : 2 * part + 2])


def test_each_image_is_loaded_once(brightness, shades, tmp_path, monkeypatch):
    dataset, loaded = open_test_set(brightness, shades, tmp_path), []
    load = type(dataset).load

    def counted(self, split, indices, *args, **options):
        loaded.extend(indices)
        return load(self, split, indices, *args, **options)

    monkeypatch.setattr(type(dataset), "load", counted)
    assert len(list(evaluation_batches(dataset, brightness.preprocessing, 4))) == 2
    assert sorted(loaded) == list(range(6))
    *_, (batch, mask) = evaluation_batches(dataset, brightness.preprocessing, 4, (1, 2))  # its part has no image
    assert not mask.any()
    assert batch["image"].shape == (2, 4, 4, 3)
    assert not batch["image"].any()


def test_a_run_is_evaluated_as_in_training(lenet_run):
    values = evaluate(lenet_run.workdir)
    assert values["test_accuracy"] == lenet_run.test_accuracy
    assert values["test_loss"] == pytest.approx(lenet_run.test_loss, rel=1e-6)
    dataset = open_dataset("fashion_mnist_mini")
    images, labels = dataset.read("test")
    order = np.argsort(-load_run(lenet_run.workdir).predict(images), axis=1)
    assert values["top_5_accuracy"] == pytest.approx((order[:, :5] == labels[:, None]).any(1).mean(), abs=1e-3)
    for index, row in enumerate(values["classes"]):
        assert row["class"] == dataset.class_names[index]
        assert row["examples"] == (labels == index).sum()
        assert row["recall"] == pytest.approx((order[labels == index, 0] == index).mean(), abs=2e-2)
    assert sum(row["recall"] * row["examples"] for row in values["classes"]) / 2000 == pytest.approx(
        values["test_accuracy"]
    )


def test_a_dataset_with_unknown_classes_is_refused(lenet_run, shades, tmp_path):
    with pytest.raises(UsageError, match="classes that the run does not have: 'bright', 'dark'"):
        evaluate(lenet_run.workdir, dataset=shades, data_dir=tmp_path)


@pytest.mark.parametrize("changed", [{"dataset": "imagefolder:gone"}, {"data_dir": "gone", "dataset": "mnist"}])
def test_missing_data_of_a_run_is_named_with_its_path(changed, lenet_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(lenet_run.workdir, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    del config["sha256"]  # as a person accepts an edit
    (folder / "config.json").write_text(json.dumps({**config, **changed}))
    with pytest.raises(UsageError, match=rf"{tmp_path}/gone does not exist.*--dataset"):
        evaluate(folder)
    assert evaluate(folder, dataset="fashion_mnist_mini")["test_accuracy"] == lenet_run.test_accuracy


def test_a_network_that_does_not_fit_its_images_or_classes_is_refused_in_one_line(brightness):
    around = brightness.preprocessing
    with pytest.raises(UsageError, match="cannot take images of 4x4 pixels with 1 channels"):
        brightness.with_preprocessing(dataclasses.replace(around, image_shape=(4, 4, 1)))
    with pytest.raises(UsageError, match=r"returns logits of shape \(1, 3\) for one image, not \(1, 2\)"):
        brightness.with_preprocessing(dataclasses.replace(around, class_names=("a", "b")))


def state_of(step):
    return TrainState(step=np.int32(step), params={}, batch_stats={}, opt_state={}, ema={}, key=np.zeros(2, np.uint32))


def test_the_latest_the_best_or_any_kept_checkpoint_is_chosen(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step, accuracy in {10: 0.9, 20: 0.5, 30: None}.items():
            checkpoints.save(state_of(step), {}, accuracy)
        checkpoints.wait()
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        for chosen, step in (("latest", 30), ("best", 10), (20, 20), ("020", 20)):
            assert checkpoints.chosen(chosen, state_of(0))[0].step == step
        with pytest.raises(UsageError, match=r"no checkpoint of step 15 in .*\. Steps kept: 10, 20, 30"):
            checkpoints.chosen(15, state_of(0))
        for wrong in ("worst", "-1", "1.5", "9" * 5000):
            with pytest.raises(UsageError, match="Steps kept: 10, 20, 30"):
                checkpoints.chosen(wrong, state_of(0))


def test_no_tested_checkpoint_is_the_best(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state_of(5), {})
        checkpoints.wait()
        with pytest.raises(UsageError, match=r"was evaluated\. Choose one of the steps 5"):
            checkpoints.chosen("best", state_of(0))
