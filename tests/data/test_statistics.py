"""Statistics of the training images are measured once, as the network sees the images."""

import json

import numpy as np
import pytest

from jaxcnn.data import open_dataset, statistics
from jaxcnn.data.datasets import BUNDLED_DIR
from jaxcnn.data.decode import Geometry
from jaxcnn.data.tfds_dataset import TfdsDataset


@pytest.fixture
def folder(images, tmp_path):
    """The name of an image folder whose images differ in size, and the folder of prepared datasets."""
    images.write_classes(tmp_path / "pics", count=20)
    images.write_image(tmp_path / "pics" / "ant" / "large.png", size=(30, 20))
    return f"imagefolder:{tmp_path / 'pics'}", tmp_path / "data"


def of_pixels(pixels):
    """Return the statistics of a list of images."""
    flat = np.concatenate([image.reshape(-1, image.shape[-1]) for image in pixels]) / 255.0
    return flat.mean(0), flat.std(0)


@pytest.mark.parametrize("geometry", [None, Geometry((6, 6)), Geometry((6, 6), crop_fraction=0.5)])
def test_statistics_are_those_of_the_images_as_the_network_sees_them(folder, geometry):
    dataset = open_dataset(*folder)
    examples = dataset.read_encoded("train", range(dataset.examples["train"]))
    mean, std = of_pixels([dataset.decode(example, geometry or Geometry()) for example in examples])
    measured = statistics.measure(dataset, geometry)
    np.testing.assert_allclose(measured.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(measured.std, std, rtol=1e-9)


def test_all_images_of_one_size_are_measured_and_not_kept_in_the_package():
    dataset = open_dataset("fashion_mnist_mini")
    before = sorted(dataset.directory.iterdir())
    measured = statistics.measure(dataset)
    pixels, _ = dataset.read("train")
    np.testing.assert_allclose(measured.mean, of_pixels(pixels)[0], rtol=1e-9)
    assert measured == statistics.Statistics.of(pixels)
    assert sorted(dataset.directory.iterdir()) == before
    assert dataset.directory.is_relative_to(BUNDLED_DIR)


def test_statistics_are_measured_once_for_each_geometry(folder, monkeypatch):
    dataset = open_dataset(*folder)
    geometries = [None, Geometry((6, 6)), Geometry((6, 6), background="black"), Geometry((5, 6), "stretch")]
    measured = [statistics.measure(dataset, geometry) for geometry in geometries]
    assert len({measured[0], measured[1], measured[3]}) == 3
    read = []
    original = TfdsDataset.read_encoded
    monkeypatch.setattr(TfdsDataset, "read_encoded", lambda *args: (read.append(args), original(*args))[1])
    again = open_dataset(*folder)
    assert [statistics.measure(again, geometry) for geometry in geometries] == measured
    assert not read
    assert statistics.measure(again, Geometry((7, 7))) not in measured
    assert read


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 0}', '{"format": 1, "train": 33, "measured": {"a": 1}}'])
def test_a_damaged_file_is_replaced(folder, damage):
    dataset = open_dataset(*folder)
    (dataset.directory / statistics.FILE).write_text(damage)
    measured = statistics.measure(dataset)
    (stored,) = json.loads((dataset.directory / statistics.FILE).read_text())["measured"].values()
    assert tuple(stored["mean"]) == measured.mean


def test_a_folder_that_cannot_be_written_is_measured_again(folder, monkeypatch):
    def fail(*args):
        raise PermissionError

    dataset = open_dataset(*folder)
    monkeypatch.setattr(type(dataset.directory), "write_text", fail)
    assert statistics.measure(dataset) == statistics.measure(dataset)
    assert not list(dataset.directory.glob(f"*{statistics.FILE}*"))


def test_at_most_some_images_are_measured_if_they_differ_in_size(folder, monkeypatch):
    dataset = open_dataset(*folder)
    monkeypatch.setattr(statistics, "STATISTICS_SAMPLES", 3)
    last = dataset.examples["train"] - 1
    examples = dataset.read_encoded("train", [0, last // 2, last])
    mean, _ = of_pixels([dataset.decode(example) for example in examples])
    np.testing.assert_allclose(statistics.measure(dataset).mean, mean, rtol=1e-9)
