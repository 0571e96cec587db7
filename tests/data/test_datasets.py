"""Data sets are found, read and described; what is missing or damaged is told in one line."""

import json
import shutil

import numpy as np
import pytest

from jaxcnn.data.datasets import BUNDLED_DIR, list_datasets, open_dataset
from jaxcnn.data.statistics import STATISTICS, Statistics
from jaxcnn.errors import UsageError

NAME = "fashion_mnist_mini"


@pytest.fixture
def copy(tmp_path):
    """A prepared data set of another name, outside the package."""
    shutil.copytree(BUNDLED_DIR / NAME / "1.0.0", tmp_path / "other" / "1.0.0")
    for path in (tmp_path / "other" / "1.0.0").iterdir():
        path.rename(path.with_name(path.name.replace(NAME, "other")))
    info = tmp_path / "other" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace(f'"{NAME}"', '"other"'))
    return tmp_path


def test_the_bundled_data_set_is_described():
    dataset = open_dataset(NAME)
    assert dataset.image_shape == (28, 28, 1)
    assert dataset.num_classes == 10
    assert dataset.class_names[9] == "Ankle boot"
    assert dataset.examples == {"train": 10_000, "test": 2_000}


def test_a_split_is_read_once_as_uint8():
    dataset = open_dataset(NAME)
    images, labels = dataset.read("test")
    assert (images.shape, images.dtype) == ((2000, 28, 28, 1), np.uint8)
    assert (labels.shape, labels.dtype) == ((2000,), np.int32)
    assert dataset.read("test")[0] is images


def test_recorded_statistics_are_those_of_the_training_images():
    images, _ = open_dataset(NAME).read("train")
    measured, scaled = Statistics.of(images), images / 255.0
    np.testing.assert_allclose(measured.mean, scaled.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(measured.std, scaled.std((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(STATISTICS[NAME].mean, measured.mean, atol=5e-7)
    np.testing.assert_allclose(STATISTICS[NAME].std, measured.std, atol=5e-7)


def test_any_prepared_data_set_of_labelled_images_is_read_by_its_name(copy):
    assert "other" in list_datasets(copy)
    dataset = open_dataset("other", copy)
    np.testing.assert_array_equal(dataset.read("test")[0], open_dataset(NAME).read("test")[0])
    np.testing.assert_allclose(dataset.statistics().mean, STATISTICS[NAME].mean, atol=5e-7)


def test_an_unknown_name_is_refused_with_the_closest_and_a_known_one_with_its_folder(tmp_path):
    with pytest.raises(UsageError, match="unknown dataset 'cifar_10'; did you mean 'cifar10'"):
        open_dataset("cifar_10", tmp_path)
    with pytest.raises(UsageError, match=f"dataset 'cifar10' is not prepared in {tmp_path}"):
        open_dataset("cifar10", tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "remove", "flip"])
def test_damaged_records_are_reported_in_one_line(copy, damage):
    records = copy / "other" / "1.0.0" / "other-test.array_record-00000-of-00001"
    content = bytearray(records.read_bytes())
    if damage == "truncate":
        records.write_bytes(content[: len(content) // 2])
    elif damage == "remove":
        records.unlink()
    else:
        for position in range(1000, len(content), 5000):
            content[position] ^= 0xFF
        records.write_bytes(content)
    with pytest.raises(
        UsageError,
        match=r"^dataset 'other' in .* is damaged: .*\. "
        r"Run jaxcnn prepare other --force to prepare the dataset again\.$",
    ):
        open_dataset("other", copy).read("test")


def test_damaged_descriptions_are_reported_in_one_line(copy):
    (copy / "other" / "1.0.0" / "features.json").write_text("{")
    with pytest.raises(UsageError, match="dataset 'other'"):
        open_dataset("other", copy)


def test_a_label_out_of_range_is_reported_in_one_line(copy):
    folder = copy / "other" / "1.0.0"
    names = (folder / "label.labels.txt").read_text().splitlines()[:-1]
    (folder / "label.labels.txt").write_text("\n".join(names) + "\n")
    features = (folder / "features.json").read_text()
    (folder / "features.json").write_text(features.replace('"numClasses": "10"', '"numClasses": "9"'))
    with pytest.raises(
        UsageError,
        match=r"^dataset 'other' in .* has a label out of range in .*: 9\. "
        r"Prepare the dataset again with labels from 0 to 8\.$",
    ):
        open_dataset("other", copy).read("test")


def test_parts_of_splits_are_chosen_in_the_notation_of_tfds():
    dataset = open_dataset(NAME, train_split="train[:90%]", test_split="train[90%:]")
    assert dataset.examples == {"train": 9000, "test": 1000}
    whole, _ = open_dataset(NAME).read("train")
    np.testing.assert_array_equal(dataset.read("test")[0], whole[9000:])


@pytest.mark.parametrize("split", ["trai", "train[:90", "train[200%:]", "train[:0%]", "test[5:5]"])
def test_a_part_that_does_not_exist_is_refused(split):
    with pytest.raises(UsageError, match="split"):
        open_dataset(NAME, train_split=split)


def test_a_dataset_without_a_test_split_is_divided(copy):
    info = copy / "other" / "1.0.0" / "dataset_info.json"
    values = json.loads(info.read_text())
    values["splits"] = [split for split in values["splits"] if split["name"] == "train"]
    info.write_text(json.dumps(values))
    dataset = open_dataset("other", copy)
    assert dataset.examples == {"train": 8000, "test": 2000}
    assert "has no test split; training on train[:80%] and testing on train[80%:]" in dataset.notes[0]


def test_labels_follow_the_names_of_classes():
    dataset = open_dataset(NAME)
    names = dataset.class_names
    turned = dataset.with_classes(names[::-1])
    np.testing.assert_array_equal(turned.read("test")[1], 9 - dataset.read("test")[1])
    assert turned.with_classes(names).read_encoded("test", [0, 1]) == dataset.read_encoded("test", [0, 1])
    more = dataset.with_classes((*names, "hat", "glove"))
    assert more.num_classes == 12
    assert "has no images of 'hat', 'glove'" in more.notes[0]
    with pytest.raises(UsageError, match="classes that the run does not have: 'Trouser'"):
        dataset.with_classes([name for name in names if name != "Trouser"])
    with pytest.raises(UsageError, match="Did you rename 'Trousers'"):
        dataset.with_classes([name.replace("Trouser", "Trousers") for name in names])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"image_size": 32, "resize": 20}, "resize is less than the image size 32: 20. Use 32 or more."),
        ({"resize": 30, "crop_fraction": 0.9}, "mutually exclusive"),
    ],
)
def test_a_geometry_that_cannot_work_is_refused(arguments, says):
    with pytest.raises(UsageError, match=says):
        open_dataset(NAME).geometry(**arguments)


def test_the_geometry_keeps_images_that_have_the_size_already():
    dataset = open_dataset(NAME)
    assert dataset.keeps_pixels(dataset.geometry())
    assert dataset.keeps_pixels(dataset.geometry(28))
    assert dataset.geometry(32).crop_fraction == 0.875
    for changed in (dataset.geometry(28, crop_fraction=0.9), dataset.geometry((28, 30)), dataset.geometry(resize=32)):
        assert not dataset.keeps_pixels(changed)
