"""Folders of images are data sets: made once, safely, and damaged images are named."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxcnn.cli import main
from jaxcnn.data import open_dataset, open_pipeline
from jaxcnn.data.decode import Geometry, decode
from jaxcnn.errors import UsageError


def pixels_of(folder):
    return sorted(decode(path.read_bytes(), 3).tobytes() for path in folder.rglob("*.jpg"))


def test_train_and_validation_folders_are_the_splits(originals, tmp_path):
    originals.write_image_folder(tmp_path / "images", {"train": 4, "valid": 2})
    dataset = open_dataset(f"imagefolder:{tmp_path / 'images'}", tmp_path / "data")
    assert dataset.class_names == ("ant", "bee")
    assert dataset.examples == {"train": 8, "test": 4}
    assert dataset.image_shape == (None, None, 3)
    for split, name in (("train", "train"), ("test", "valid")):
        examples = dataset.read_encoded(split, range(dataset.examples[split]))
        assert sorted(decode(example.image, 3).tobytes() for example in examples) == pixels_of(
            tmp_path / "images" / name
        )
        assert sorted(example.label for example in examples) == sorted([0, 1] * (len(examples) // 2))


def test_without_split_folders_some_images_of_each_class_are_the_test_set(originals, tmp_path):
    originals.write_image_folder(tmp_path / "images", {"": 30})
    dataset = open_dataset(f"imagefolder:{tmp_path / 'images'}", tmp_path / "data")
    assert dataset.examples == {"train": 48, "test": 12}
    before = {example.image for example in dataset.read_encoded("test", range(dataset.examples["test"]))}
    # An image more moves at most one other to the other split.
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "ant" / "another.jpg")
    more = open_dataset(f"imagefolder:{tmp_path / 'images'}", tmp_path / "data")
    after = {example.image for example in more.read_encoded("test", range(more.examples["test"]))}
    assert len(after) == 12
    assert len(before - after) <= 1


def test_the_dataset_is_prepared_once_and_again_when_a_file_changes(originals, tmp_path):
    originals.write_image_folder(tmp_path / "images", {"train": 2, "test": 1})
    name = f"imagefolder:{tmp_path / 'images'}"
    first = open_dataset(name, tmp_path / "data").directory
    made = (first / "dataset_info.json").stat().st_mtime_ns
    assert open_dataset(name, tmp_path / "data").directory == first
    assert (first / "dataset_info.json").stat().st_mtime_ns == made
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "train" / "ant" / "0.jpg")
    assert open_dataset(name, tmp_path / "data").directory != first


def test_damaged_images_are_named_in_one_line_and_nothing_is_written(originals, tmp_path):
    originals.write_image_folder(tmp_path / "images", {"train": 2, "test": 1})
    (tmp_path / "images" / "train" / "ant" / "1.jpg").write_bytes(b"\xff\xd8 not a picture")
    (tmp_path / "images" / "test" / "bee" / "0.jpg").write_bytes(b"")
    with pytest.raises(
        UsageError,
        match=r"2 damaged images: test/bee/0\.jpg \(empty file\), train/ant/1\.jpg \(.*\)\. Remove or replace",
    ) as error:
        open_dataset(f"imagefolder:{tmp_path / 'images'}", tmp_path / "data")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ({}, "is not a folder"),
        ({"train": 0, "test": 0}, "class folder has no images: .*/train/ant"),
        ({"train": 1, "test": 0}, "no test images"),
        ({"": 1}, "no test images"),
    ],
)
def test_a_folder_without_classes_is_refused(splits, says, originals, tmp_path):
    originals.write_image_folder(tmp_path / "images", splits)
    with pytest.raises(UsageError, match=says):
        open_dataset(f"imagefolder:{tmp_path / 'images'}", tmp_path / "data")


def test_images_without_a_common_size_need_one(photographs):
    with pytest.raises(UsageError, match="differ in size"):
        open_pipeline(photographs, 4)
    with pytest.raises(UsageError, match="differ in size"):
        photographs.read("train")


def test_a_random_crop_is_decoded_equally_by_any_number_of_processes(photographs):
    pipeline = open_pipeline(
        photographs, 8, seed=3, geometry=photographs.geometry(24), augment=["resized_crop:0.3,0.6", "flip"], workers=2
    )
    assert pipeline.device_augment == ("flip",)
    assert pipeline.image_shape == (24, 24, 3)
    batches = pipeline.batches(2)
    whole = [next(batches) for _ in range(4)]
    parts = []
    for part in range(2):
        half = open_pipeline(
            photographs,
            8,
            seed=3,
            geometry=photographs.geometry(24),
            augment=["resized_crop:0.3,0.6"],
            share=(part, 2),
            workers=1,
        ).batches(2)
        parts.append([next(half) for _ in range(4)])
    for index, batch in enumerate(whole):
        for name in ("image", "label"):
            np.testing.assert_array_equal(batch[name], np.concatenate([parts[0][index][name], parts[1][index][name]]))
    assert not np.array_equal(whole[0]["image"], whole[3]["image"])


def test_the_center_crop_agrees_with_torchvisions_resize_and_crop(photographs):
    pipeline = open_pipeline(photographs, 8, geometry=photographs.geometry(14))
    images, labels = photographs.read("test", photographs.geometry(14))
    batches = list(pipeline.evaluation_batches(4))
    kept = np.concatenate([padded.mask for padded in batches])
    np.testing.assert_array_equal(np.concatenate([padded.batch["image"] for padded in batches])[kept], images)
    np.testing.assert_array_equal(np.concatenate([padded.batch["label"] for padded in batches])[kept], labels)
    for place, example in enumerate(photographs.read_encoded("test", range(3))):
        image = Image.fromarray(decode(example.image, 3))
        box = photographs.geometry(14).box(image.height, image.width)
        middle = np.asarray(image.resize((14, 14), Image.Resampling.BILINEAR, box=box), float)
        assert np.abs(middle - images[place]).mean() < 3  # which is decoded at a smaller size


def test_the_center_crop_has_224_of_256_pixels_of_the_shorter_side():
    geometry = Geometry((224, 224), crop_fraction=0.875)
    assert geometry.box(256, 256) == (16, 16, 240, 240)
    assert geometry.box(512, 1024) == Geometry((224, 224), resize=256).box(512, 1024) == (288, 32, 736, 480)


@pytest.mark.usefixtures("compile_quickly")
def test_a_network_is_trained_on_a_folder_and_reports_how_long_it_waited(photographs, tmp_path, capsys):
    flags = ["--dataset", photographs.name, "--data-dir", str(photographs.directory.parent.parent)]
    size = ["--image-size", "28", "--augment", "resized_crop", "flip"]
    run = ["--steps", "4", "--batch-size", "8", "--workdir", str(tmp_path / "run"), "--json", "--no-progress"]
    assert main(["train", *flags, *size, *run]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["test_examples"] == 10
    assert result["data_residence"] == "disk"
    assert 0 < result["data_wait"] <= 1
    assert main(["train", *flags, "--steps", "4", "--batch-size", "8", "--workdir", str(tmp_path / "other")]) == 2
    assert "Set a common size with --image-size" in capsys.readouterr().err


def test_waiting_for_data_is_reported_with_advice(photographs):
    pipeline = open_pipeline(photographs, 8, geometry=photographs.geometry(24), augment=["resized_crop"])
    assert pipeline.advice(0.1) is None
    assert "waited for data 45% of the time" in pipeline.advice(0.45)
    assert "would help" in pipeline.advice(0.45)


def test_images_of_a_folder_are_shown_and_their_statistics_measured(photographs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data_dir = str(photographs.directory.parent.parent)
    out = tmp_path / "sheet.png"
    flags = ["--data-dir", data_dir, "--augment", "resized_crop", "flip", "--columns", "3", "--out", str(out)]
    assert main(["datasets", "show", photographs.name, *flags]) == 0
    picture = np.asarray(Image.open(out))
    assert picture.ndim == 3
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    assert main(["datasets", "stats", photographs.name, "--data-dir", data_dir]) == 0
    assert "not recorded" in capsys.readouterr().out
    pixels = [photographs.decode(x).reshape(-1, 3) for x in photographs.read_encoded("train", range(24))]
    measured = photographs.measure()
    np.testing.assert_allclose(measured.mean, np.concatenate(pixels).mean(0) / 255, rtol=1e-6)
    np.testing.assert_allclose(measured.std, np.concatenate(pixels).std(0) / 255, rtol=1e-6)
