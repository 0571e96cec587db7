"""`npz:FILE`: arrays under Keras's or MedMNIST's names."""

import numpy as np
import pytest

from jaxcnn.data import open_dataset
from jaxcnn.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 5, 5), dtype=np.uint8)
LABELS = np.arange(8)[:, None] % 2
KERAS = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:4], "y_test": LABELS[:4]}
MEDMNIST = {"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES[:4], "test_labels": LABELS[:4]}


@pytest.mark.parametrize("arrays", [KERAS, MEDMNIST])
@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_are_read_by_name(arrays, compressed, tmp_path, monkeypatch):
    (np.savez_compressed if compressed else np.savez)(tmp_path / "some.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    dataset = open_dataset("npz:some.npz")
    assert dataset.name == f"npz:{tmp_path / 'some.npz'}"
    assert dataset.examples == {"train": 8, "test": 4}
    np.testing.assert_array_equal(dataset.read("train")[0][..., 0], IMAGES)
    assert dataset.labels("train").tolist() == [0, 1] * 4
    monkeypatch.chdir("/")
    assert open_dataset(dataset.name).fingerprint() == dataset.fingerprint()


def test_validation_examples_and_names_of_classes_are_optional(tmp_path):
    np.savez(tmp_path / "a.npz", **KERAS, x_val=IMAGES[:2], y_val=LABELS[:2], class_names=["cat", "dog"])
    dataset = open_dataset(f"npz:{tmp_path / 'a.npz'}")
    assert dataset.examples["validation"] == 2
    assert dataset.class_names == ("cat", "dog")


def without(key):
    return {name: array for name, array in KERAS.items() if name != key}


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (
            without("y_train"),
            "has no array 'y_train'. The file contains x_train, x_test, y_test. Name the train arrays x_train and",
        ),
        (without("x_test"), "has no array 'x_test'"),
        ({**KERAS, "x_val": IMAGES}, "has no array 'y_val'"),
        ({"images": IMAGES}, "has no array 'x_train'. The file contains images"),
        ({**KERAS, "x_train": np.array([{}] * 8)}, "is refused: the file contains Python objects"),
        ({**KERAS, "y_train": LABELS - 5}, "is out of range: -5"),
    ],
)
def test_a_file_without_the_arrays_is_refused(arrays, says, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError, match=says) as error:
        open_dataset(f"npz:{tmp_path / 'a.npz'}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"hello" * 99])
def test_a_file_that_is_not_npz_is_refused(content, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.npz is (not an intact npz file|refused)"):
        open_dataset(f"npz:{tmp_path / 'a.npz'}")


def test_truncated_files_folders_and_missing_files_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", **KERAS)
    content = (tmp_path / "whole.npz").read_bytes()
    damaged = bytearray(content)
    damaged[100] ^= 0xFF
    for name, part in (("half.npz", content[: len(content) // 2]), ("damaged.npz", bytes(damaged))):
        (tmp_path / name).write_bytes(part)
        with pytest.raises(UsageError, match="is not an intact npz file"):
            open_dataset(f"npz:{tmp_path / name}")
    with pytest.raises(UsageError, match="is not an intact npz file"):
        open_dataset(f"npz:{tmp_path}")
    with pytest.raises(UsageError, match=r"npz file does not exist: .*none\.npz"):
        open_dataset(f"npz:{tmp_path / 'none.npz'}")
    np.save(tmp_path / "one.npy", IMAGES)
    with pytest.raises(UsageError, match=r"has a single array without a name\. Save training and test arrays"):
        open_dataset(f"npz:{tmp_path / 'one.npy'}")
    with pytest.raises(UsageError, match="--train-split and --test-split do not apply to"):
        open_dataset(f"npz:{tmp_path / 'whole.npz'}", train_split="train[:90%]")
