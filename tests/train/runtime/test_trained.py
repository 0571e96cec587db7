"""Trained networks, loaded from the directory of their run: the same predictions, without the dataset."""

import dataclasses
import json
import shutil

import jax.export
import numpy as np
import optax
import pytest

from jaxcnn.data import from_arrays, open_dataset
from jaxcnn.errors import UsageError
from jaxcnn.export import stablehlo
from jaxcnn.layers import Dense, Flatten, Sequential
from jaxcnn.train import Config, evaluate, fit, load_run
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
    stored = json.loads((copied / PREPROCESSING).read_text())
    del stored["sha256"]  # as in a file of an earlier version
    for damage in ("[]", "{}", '{"image_shape": 3}', json.dumps({**stored, "mean": [1, 2]})):
        (copied / PREPROCESSING).write_text(damage)
        with pytest.raises(UsageError, match="is damaged"):
            load_run(copied)


def test_a_run_without_a_checkpoint_is_refused(lenet_run, tmp_path):
    for name in ("config.json", PREPROCESSING):
        (tmp_path / name).write_bytes((lenet_run.workdir / name).read_bytes())
    with pytest.raises(UsageError, match="no checkpoint yet"):
        load_run(tmp_path)


def test_a_run_on_floats_predicts_floats_only_and_is_exported_for_them(tmp_path):
    images, labels = open_dataset("fashion_mnist_mini").read("test")
    floats, labels = images[:200].astype(np.float64) / 255, labels[:200]
    data = from_arrays((floats, labels), (floats, labels))
    model = Sequential([Flatten(), Dense(10)])
    result = fit(Config(workdir=str(tmp_path / "run"), steps=20, progress=False), data=data, model=model)
    trained = load_run(tmp_path / "run", model=model)
    assert (trained.predict(floats).argmax(1) == labels).mean() == pytest.approx(result.test_accuracy, abs=1e-9)
    with pytest.raises(UsageError, match=r"was trained on float images.* Pass float arrays in Python"):
        trained.predict(images[:200])
    exported = jax.export.deserialize(bytearray(stablehlo.convert(trained)))
    theirs = exported.call(floats.astype(np.float32))
    np.testing.assert_allclose(theirs, trained.logits(floats.astype(np.float32)), rtol=1e-4, atol=1e-4)


def test_the_default_is_the_checkpoint_that_fit_has_tested(tmp_path):
    labels = np.arange(60) % 2
    images = np.broadcast_to(100 * labels[:, None, None, None], (60, 4, 4, 1)).astype(np.uint8)
    data = from_arrays((images, labels), test=(images, labels), validation=(images, labels))
    config = Config(workdir=str(tmp_path), steps=3, evaluate_every=1, batch_size=24, monitor="loss", progress=False)
    # Gradient ascent: the first evaluation has the smallest loss.
    parts = {"model": Sequential([Flatten(), Dense(2)]), "optimizer": optax.sgd(-0.5)}
    run = fit(config, data=data, **parts)
    assert run.values["test_step"] == 1
    assert load_run(tmp_path, **parts).step == 1
    assert load_run(tmp_path, checkpoint="latest", **parts).step == 3
    assert evaluate(tmp_path, data=data, **parts)["test_loss"] == pytest.approx(run.test_loss, rel=1e-5)
    assert fit(run.config, data=data, **parts).values == run.values  # the configuration has the name of the data
    with pytest.raises(UsageError, match="data and the dataset 'mnist' are mutually exclusive"):
        fit(dataclasses.replace(config, dataset="mnist"), data=data, **parts)
    result = tmp_path / "result.json"
    result.write_text(json.dumps({**run.values, "steps": 2}))  # of an earlier end of the run
    assert load_run(tmp_path, **parts).step == 3
    result.unlink()
    assert load_run(tmp_path, **parts).step == 3
