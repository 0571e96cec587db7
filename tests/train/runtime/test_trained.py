"""Trained networks, loaded from the directory of their run: the same predictions, without the dataset."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from jaxcnn.data import open_dataset
from jaxcnn.errors import UsageError
from jaxcnn.train import load_run
from jaxcnn.train.runtime.preprocessing import PREPROCESSING


@pytest.fixture
def copied(lenet_run, tmp_path):
    """Return a copy of the run's directory that a test may change."""
    return shutil.copytree(lenet_run.workdir, tmp_path / "run")


def test_the_accuracy_of_predictions_is_the_one_that_training_reported(lenet_run):
    pixels, labels = open_dataset("fashion_mnist_mini").read("test")
    probabilities = load_run(lenet_run.workdir).predict(pixels)
    assert probabilities.shape == (2000, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert (probabilities.argmax(1) == labels).mean() == pytest.approx(lenet_run.test_accuracy, abs=1e-9)


def test_the_dataset_is_not_needed(lenet_run, monkeypatch):
    monkeypatch.setattr("jaxcnn.train.runtime.trained.open_dataset", None)
    assert load_run(lenet_run.workdir).preprocessing.class_names[0] == "T-shirt/top"


def test_a_run_without_stored_preprocessing_takes_it_from_its_dataset(lenet_run, copied):
    (copied / PREPROCESSING).unlink()
    assert load_run(copied).preprocessing == load_run(lenet_run.workdir).preprocessing


def test_preprocessing_is_that_of_the_dataset(lenet_run):
    trained = load_run(lenet_run.workdir)
    statistics = open_dataset("fashion_mnist_mini").statistics()
    assert dataclasses.astuple(trained.preprocessing)[:3] == ((28, 28, 1), statistics.mean, statistics.std)


def test_damaged_preprocessing_is_refused(copied):
    stored = (copied / PREPROCESSING).read_text()
    for damage in ("[]", "{}", '{"image_shape": 3}', json.dumps({**json.loads(stored), "mean": [1, 2]})):
        (copied / PREPROCESSING).write_text(damage)
        with pytest.raises(UsageError, match="is damaged"):
            load_run(copied)


def test_a_run_without_a_checkpoint_is_refused(lenet_run, tmp_path):
    for name in ("config.json", PREPROCESSING):
        (tmp_path / name).write_bytes((lenet_run.workdir / name).read_bytes())
    with pytest.raises(UsageError, match="no checkpoint yet"):
        load_run(tmp_path)
