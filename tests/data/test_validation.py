"""Validation examples are held out of the training examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcnn.data import open_dataset, open_pipeline
from jaxcnn.data.order import choose_validation
from jaxcnn.errors import UsageError

NAME = "fashion_mnist_mini"


@given(
    labels=st.lists(st.integers(0, 4), min_size=12, max_size=80).map(np.array),
    part=st.floats(0.1, 0.9),
    seed=st.integers(0, 3),
)
def test_the_same_fraction_of_each_class_is_held_out(labels, part, seed):
    chosen = choose_validation(len(labels), labels, part, seed)
    assert (np.diff(chosen) > 0).all()
    counts, held_out = np.bincount(labels, minlength=5), np.bincount(labels[chosen], minlength=5)
    assert (np.abs(held_out - counts * part) <= 1).all()
    assert (held_out[counts > 0] < counts[counts > 0]).all()
    np.testing.assert_array_equal(choose_validation(len(labels), labels, part, seed), chosen)


def test_seeds_choose_different_examples_and_without_classes_any():
    chosen = [choose_validation(100, None, 0.2, seed).tolist() for seed in (0, 1, 0)]
    assert chosen[0] == chosen[2] != chosen[1]
    assert [len(places) for places in chosen] == [20, 20, 20]


@pytest.mark.parametrize("part", [0.0, 1.0, -0.5, 1e-9, float("nan")])
def test_a_fraction_of_no_examples_is_refused(part):
    with pytest.raises(UsageError, match=r"^validation .*\. Use a"):
        choose_validation(100, None, part, 0)


def contents(dataset, split):
    """Return the images of a split as bytes, each with its label."""
    return [(image.tobytes(), int(label)) for image, label in zip(*dataset.read(split), strict=True)]


def test_held_out_examples_are_divided_without_loss(grey):
    dataset = open_dataset("mnist", grey)
    divided = dataset.with_validation(0.2, seed=1)
    assert divided.examples == {"train": 78, "test": 23, "validation": 19}
    assert sorted(contents(divided, "train") + contents(divided, "validation")) == sorted(contents(dataset, "train"))
    assert contents(divided, "test") == contents(dataset, "test")
    np.testing.assert_array_equal(divided.labels("validation"), divided.read("validation")[1])
    assert dataset.examples == {"train": 97, "test": 23}
    turned = divided.with_classes(dataset.class_names[::-1])
    np.testing.assert_array_equal(turned.labels("validation"), 9 - divided.labels("validation"))


def test_examples_keep_their_positions_in_the_stored_split(grey):
    dataset = open_dataset("mnist", grey)
    divided, stored = dataset.with_validation(0.2, seed=1), contents(dataset, "train")
    for split in ("train", "validation"):
        of, places = divided.stored_at(split, range(divided.examples[split]))
        assert of == "train"
        assert [stored[place] for place in places] == contents(divided, split)
    assert divided.stored_at("test", [3, 1]) == ("test", [3, 1])
    with pytest.raises(UsageError, match="unknown split"):
        dataset.stored_at("validation", [0])


def test_batches_have_the_examples_of_their_split(grey):
    divided = open_dataset("mnist", grey).with_validation(0.2, seed=1)
    for residence in ("memory", "disk"):
        pipeline = open_pipeline(divided, 39, residence=residence, workers=2)
        batches = pipeline.batches()
        epoch = [image.tobytes() for _ in range(2) for image in next(batches)["image"]]
        assert sorted(epoch) == sorted(image for image, _ in contents(divided, "train"))
        seen = [
            image.tobytes()
            for batch, mask in pipeline.evaluation_batches(8, split="validation")
            for image in batch["image"][mask]
        ]
        assert seen == [image for image, _ in contents(divided, "validation")]
        assert pipeline.state_after(3) is None
        pipeline.restore(3, None)


def test_statistics_are_those_of_the_remaining_training_images(grey):
    dataset = open_dataset("mnist", grey)
    before = sorted(dataset.directory.iterdir())
    divided = dataset.with_validation(0.3, seed=1)
    np.testing.assert_allclose(divided.measure().mean, [divided.read("train")[0].mean() / 255], rtol=1e-9)
    assert sorted(dataset.directory.iterdir()) == before


def test_a_split_of_the_source_is_held_out_by_its_name(grey):
    dataset = open_dataset("mnist", grey)
    divided = dataset.with_validation("train[90%:]", seed=0)
    count = divided.examples["validation"]
    assert divided.examples == {"train": 97 - count, "test": 23, "validation": count}
    whole = contents(dataset, "train")
    assert contents(divided, "train") == whole[: 97 - count]
    assert contents(divided, "validation") == whole[97 - count :]
    apart = open_dataset("mnist", grey, train_split="train[:50%]").with_validation("train[80%:]", seed=0)
    assert apart.examples["train"] == len(whole) // 2


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (
            "valid",
            r"validation split 'valid': .*\. The dataset has the splits train, test\. "
            r"Write a part of a split as 'train\[:90%\]'",
        ),
        ("test[:10%]", r"'test\[:10%\]' of dataset 'mnist' overlaps its test split 'test'"),
        ("train", "contains all training examples"),
        ("train[:0%]", "is empty"),
    ],
)
def test_a_split_that_cannot_be_held_out_is_refused(grey, part, says):
    with pytest.raises(UsageError, match=says):
        open_dataset("mnist", grey).with_validation(part, seed=0)


def test_a_second_validation_split_is_refused(grey):
    divided = open_dataset("mnist", grey).with_validation(0.2, seed=1)
    assert divided.with_validation("validation", seed=3) is divided
    with pytest.raises(UsageError, match="already has a validation split of 19 examples"):
        divided.with_validation(0.1, seed=1)


def test_an_unknown_split_is_refused(grey):
    with pytest.raises(UsageError, match="unknown split of dataset 'mnist' 'validation'; known: test, train"):
        open_dataset("mnist", grey).load("validation", [0])
