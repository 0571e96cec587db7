"""Folders of images as objects: train, val and test folders, or one folder that fractions and a seed divide."""

import collections
import itertools
import shutil

import pytest

from jaxcnn.data import from_folder, imagefolder, open_dataset
from jaxcnn.data.imagefolder import division, storage
from jaxcnn.data.imagefolder.files import Division, File, Found
from jaxcnn.errors import UsageError


def names(dataset):
    """Return the names of the files in each split."""
    source = dataset._builder.as_data_source()
    return {split: sorted(example["filename"].decode() for example in source[split]) for split in dataset.examples}


def test_a_folder_as_an_object_is_the_dataset_of_its_name(images, tmp_path):
    images.write_classes(tmp_path / "pics", count=5)
    dataset = from_folder(tmp_path / "pics", data_dir=tmp_path / "data")
    named = open_dataset(f"imagefolder:{tmp_path / 'pics'}", tmp_path / "data")
    assert dataset.name == named.name
    assert dataset.directory == named.directory
    assert dataset.examples == named.examples == {"train": 8, "test": 2}


def test_the_default_division_and_the_name_of_its_copy_are_those_of_earlier_versions():
    files = [
        File(f"/pics/{label}/{i}.png", f"{label}/{i}.png", f"{i}.png", label, None, 100 + i, 10**18 + i)
        for label in ("ant", "bee")
        for i in range(13)
    ]
    found = Found(storage.Path("/pics"), tuple(files), {})
    assert storage.name_copy(found.identity, found.fingerprint()) == "imagefolder_47130aba_4e0f33f612f68da2"
    tests = [file.relative for file, split in division.assign(files).items() if split == "test"]
    assert tests == ["ant/6.png", "ant/0.png", "ant/8.png", "bee/6.png", "bee/0.png", "bee/8.png"]


@pytest.mark.parametrize("opened", [from_folder, lambda path, data_dir: open_dataset(f"imagefolder:{path}", data_dir)])
def test_folders_of_all_three_splits_are_used(images, opened, tmp_path):
    for split, count in {"train": 4, "Valid": 3, "test": 2, "val": 0}.items():
        (tmp_path / "pics" / split).mkdir(parents=True)
        images.write_classes(tmp_path / "pics" / split, count=count)
    dataset = opened(tmp_path / "pics", data_dir=tmp_path / "data")
    assert dataset.examples == {"train": 8, "test": 4, "validation": 6}
    assert names(dataset)["validation"] == [f"Valid/{label}/{i}.png" for label in ("ant", "bee") for i in range(3)]
    assert dataset.notes[0] == (
        "pics: 2 classes (ant, bee), 8 training, 6 validation and 4 test images; image size 8 x 8"
    )
    pixels, labels = dataset.read("validation")
    assert pixels.shape == (6, 8, 8, 3)
    assert sorted(labels) == [0, 0, 0, 1, 1, 1]


def test_train_and_validation_folders_only_are_training_and_test_set(images, tmp_path):
    for split in ("train", "val"):
        images.write_classes(tmp_path / "pics" / split, count=5)
    dataset = from_folder(tmp_path / "pics", data_dir=tmp_path / "data", validation=0.2, seed=1)
    assert dataset.examples == {"train": 8, "test": 10, "validation": 2}
    assert all(name.startswith("val/") for name in names(dataset)["test"])
    assert "(of each class 0.2 for validation, by seed 1)" in dataset.notes[0]
    # Without options the name of the folder opens the same data.
    assert dataset.name == "folder"
    assert from_folder(tmp_path / "pics", data_dir=tmp_path / "data", seed=1).name == f"imagefolder:{tmp_path / 'pics'}"


def test_one_folder_is_divided_by_fractions_and_a_seed(images, tmp_path):
    images.write_classes(tmp_path / "pics", count=10)
    options = {"data_dir": tmp_path / "data", "test": 0.3, "validation": 0.2}
    divided = {seed: from_folder(tmp_path / "pics", seed=seed, **options) for seed in range(3)}
    for dataset in divided.values():
        assert dataset.examples == {"train": 10, "test": 6, "validation": 4}
        assert dataset.name == "folder"
        for split, count in {"train": 5, "test": 3, "validation": 2}.items():
            assert collections.Counter(name[:3] for name in names(dataset)[split]) == {"ant": count, "bee": count}
        assert sorted(itertools.chain(*names(dataset).values())) == sorted(itertools.chain(*names(divided[0]).values()))
    assert len({str(names(dataset)["test"]) for dataset in divided.values()}) > 1
    assert from_folder(tmp_path / "pics", seed=1, **options).directory == divided[1].directory
    assert "(of each class 0.3 for testing and 0.2 for validation, by seed 2)" in divided[2].notes[0]


def test_every_image_is_in_one_split_and_every_class_has_training_images():
    for count in [*range(1, 25), 101]:
        files = [File(f"{i}", f"{i}", f"{i}", "ant", None, 1, 1) for i in range(count)]
        for fractions in ((0.2, None), (0.2, 0.1), (0.9, None), (0.5, 0.49), (0.01, 0.01)):
            found = collections.Counter(division.assign(files, Division(*fractions, seed=count)).values())
            assert found.total() == count
            assert found["train"] >= 1
            assert found["test"] >= (count > 1)
            assert found["validation"] >= (count > 2 and fractions[1] is not None)
            for split, part in zip(("test", "validation"), fractions, strict=True):
                if count > 100 and part:
                    assert abs(found[split] - part * count) <= 0.5 or found["train"] == 1


def test_another_image_moves_few_others_for_any_seed():
    files = [File(f"{i}", f"{i}", f"{i}", "ant", None, 1, 1) for i in range(101)]
    for seed in range(5):
        fewer, more = (division.assign(some, Division(0.2, 0.2, seed)) for some in (files[:-1], files))
        assert sum(more[file] != split for file, split in fewer.items()) <= 2


def test_classes_are_in_the_order_that_was_given(images, tmp_path):
    images.write_classes(tmp_path / "pics", count=5)
    options = {"data_dir": tmp_path / "data"}
    dataset = from_folder(tmp_path / "pics", class_names=["bee", "ant"], **options)
    assert dataset.class_names == ("bee", "ant")
    labels = [example.label for example in dataset.read_encoded("train", range(8))]
    expected = [example.label for example in from_folder(tmp_path / "pics", **options).read_encoded("train", range(8))]
    assert labels == [1 - label for label in expected]
    assert dataset.name == "folder"
    for class_names, says in (
        (["bee"], "class_names lacks a class folder: 'ant'"),
        (["bee", "antt"], "a name without a folder: 'antt'. Did you mean 'ant'"),
        (["ant", "ant", "bee"], "class_names has the same name twice: 'ant'"),
    ):
        with pytest.raises(UsageError, match=says):
            from_folder(tmp_path / "pics", class_names=class_names, **options)


def test_damaged_images_are_named_or_left_out(images, tmp_path):
    for split in ("train", "val", "test"):
        images.write_classes(tmp_path / "pics" / split, count=2)
    (tmp_path / "pics" / "val" / "ant" / "0.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"pics has 1 damaged image: val/ant/0\.png \(empty file\)\."):
        from_folder(tmp_path / "pics", data_dir=tmp_path / "data")
    dataset = from_folder(tmp_path / "pics", data_dir=tmp_path / "data", skip_damaged=True)
    assert dataset.examples == {"train": 4, "test": 4, "validation": 3}
    assert dataset.name == "folder"
    assert imagefolder.inventory(dataset.directory)["skipped"] == ["val/ant/0.png"]


def test_mistakes_are_told_in_one_line(images, tmp_path):
    pics = tmp_path / "pics"
    for split in ("train", "val", "test"):
        images.write_classes(pics / split, count=2)
    images.write_classes(tmp_path / "single", count=2)
    for path, options, says in (
        (5, {}, "path is not a path: 5. Give the path of a folder"),
        (tmp_path / "nowhere", {}, "nowhere is not a folder"),
        (pics, {"test": 1.0}, "test is not a fraction between 0 and 1: 1.0"),
        (pics, {"validation": True}, "validation is not a fraction between 0 and 1: True"),
        (pics, {"seed": "x"}, "seed is not an integer: 'x'"),
        (pics, {"validation": 0.1}, "validation is 0.1, but .*pics has a folder of validation images"),
        (tmp_path / "single", {"validation": 0.1}, "single has no validation images. Add images, or omit validation"),
    ):
        with pytest.raises(UsageError, match=says) as error:
            from_folder(path, data_dir=tmp_path / "data", **options)
        assert "\n" not in str(error.value)
    images.write_classes(pics / "val", ["cow"], count=1)
    with pytest.raises(UsageError, match="has validation images but no training images of class 'cow'"):
        from_folder(pics, data_dir=tmp_path / "data")
    assert not (tmp_path / "data").exists()
    shutil.rmtree(pics / "val" / "cow")
    notes = from_folder(pics, test=0.5, data_dir=tmp_path / "data").notes
    assert "pics: test=0.5 has no effect, since the folder has test images" in notes
