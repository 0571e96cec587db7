"""Arrays in memory are a dataset; arrays that cannot be one are refused in one line."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data import from_arrays, open_pipeline
from jaxcnn.data.decode import Geometry, convert, fit
from jaxcnn.data.sources.arrays import hash_arrays
from jaxcnn.errors import UsageError

random = np.random.default_rng(0)
IMAGES = random.integers(0, 256, (12, 6, 7, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def pair(images=IMAGES, labels=LABELS):
    return images, labels


def test_arrays_are_described_and_not_copied():
    dataset = from_arrays(pair(), pair(IMAGES[:5], LABELS[:5]))
    assert dataset.name == "arrays"
    assert dataset.image_shape == (6, 7, 3)
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.examples == {"train": 12, "test": 5}
    assert dataset.pixel_range == 255.0
    images, labels = dataset.read("train")
    assert np.shares_memory(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    assert labels.dtype == np.int32


@pytest.mark.parametrize("residence", ["device", "memory", "disk"])
def test_batches_have_all_leaves_of_the_examples(residence):
    leaves = {"image": IMAGES, "mask": IMAGES[..., 0] > 99, "boxes": {"corners": random.normal(size=(12, 2, 4))}}
    dataset = from_arrays(leaves, leaves)
    assert dataset.labels("train") is None
    assert dataset.class_names == ()
    pipeline = open_pipeline(dataset, 5, seed=1, residence=residence, workers=2)
    for step, batch in enumerate(itertools.islice(pipeline.batches(), 4)):
        indices = pipeline.indices(step)
        assert set(batch) == {"image", "mask", "boxes"}
        np.testing.assert_array_equal(batch["image"], IMAGES[indices])
        np.testing.assert_array_equal(batch["mask"], leaves["mask"][indices])
        corners = batch["boxes"]["corners"]
        np.testing.assert_array_equal(corners, leaves["boxes"]["corners"][indices].astype(np.float32))
    (*_, last) = pipeline.evaluation_batches(5)
    assert last.mask.tolist() == [True, True, False, False, False]
    assert not last.batch["boxes"]["corners"][2:].any()


def test_a_process_without_examples_in_the_last_batch_gets_padding():
    dataset = from_arrays(pair(), pair(IMAGES[:3], LABELS[:3]))
    for residence in ("memory", "disk"):
        pipeline = open_pipeline(dataset, 8, residence=residence, share=(1, 2), workers=1)
        (only,) = pipeline.evaluation_batches(8)
        assert not only.mask.any()
        assert only.batch["image"].shape == (4, 6, 7, 3)
        assert not only.batch["image"].any()


def test_residence_counts_the_bytes_of_all_leaves():
    leaves = {"image": IMAGES, "depth": np.zeros((12, 100), np.float32)}
    dataset = from_arrays(leaves, leaves)
    assert dataset.example_bytes(dataset.geometry()) == 6 * 7 * 3 + 400
    assert dataset.example_bytes(dataset.geometry(12)) == 12 * 12 * 3 + 400


@pytest.mark.parametrize("array", [IMAGES.astype(np.int64), jnp.asarray(IMAGES), IMAGES.tolist()])
def test_integers_become_uint8(array):
    images, _ = from_arrays(pair(array), pair(array)).read("train")
    np.testing.assert_array_equal(images, IMAGES)
    assert images.dtype == np.uint8


def test_images_without_channels_have_one_and_booleans_are_black_and_white():
    dataset = from_arrays(pair(IMAGES[..., 0] > 100), pair(IMAGES[..., 0] > 100))
    assert dataset.image_shape == (6, 7, 1)
    np.testing.assert_array_equal(np.unique(dataset.read("train")[0]), [0, 255])


@pytest.mark.parametrize("dtype", [np.float64, np.float16, jnp.bfloat16.dtype])
def test_floats_keep_their_values_and_are_measured_on_them(dtype):
    values = random.normal(5.0, 3.0, IMAGES.shape).astype(dtype)
    dataset = from_arrays(pair(values), pair(values))
    images, _ = dataset.read("train")
    assert (images.dtype, dataset.pixel_range) == (np.float32, 1.0)
    np.testing.assert_array_equal(images, values.astype(np.float32))
    wide = values.astype(np.float64)
    np.testing.assert_allclose(dataset.statistics().mean, wide.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(dataset.statistics().std, wide.std((0, 1, 2)), rtol=1e-6)


def test_a_constant_channel_can_be_divided_by_its_standard_deviation():
    for images in (np.full((4, 3, 3), 7, np.uint8), np.full((4, 3, 3), 0.5)):
        assert from_arrays(pair(images, [0, 1, 0, 1]), pair(images, [0, 1, 0, 1])).statistics().std == (1.0,)


def test_floats_are_resized_as_uint8_are():
    dataset = from_arrays(pair(IMAGES.astype(np.float32)), pair(IMAGES.astype(np.float32)))
    batch = dataset.load("train", [3, 1], Geometry((4, 5), "stretch"))
    ints = from_arrays(pair(), pair()).load("train", [3, 1], Geometry((4, 5), "stretch"))
    np.testing.assert_allclose(batch["image"], ints["image"], atol=1.0)
    assert batch["image"].shape == (2, 4, 5, 3)


@pytest.mark.parametrize("channels", [2, 5])
def test_images_may_have_any_number_of_channels(channels):
    images = random.integers(0, 256, (6, 5, 5, channels), dtype=np.uint8)
    dataset = from_arrays(pair(images, [0, 1] * 3), pair(images, [0, 1] * 3))
    whole = dataset.load("test", range(6), Geometry((9, 9), "stretch"))["image"]
    for channel in range(channels):
        alone = from_arrays(pair(images[..., channel], [0, 1] * 3), pair(images[..., channel], [0, 1] * 3))
        part = alone.load("test", range(6), Geometry((9, 9), "stretch"))["image"]
        np.testing.assert_array_equal(whole[..., channel], part[..., 0])
    np.testing.assert_allclose(dataset.statistics().mean, images.mean((0, 1, 2)) / 255, rtol=1e-9)


def test_channels_are_converted_by_the_rules_of_files():
    dataset = from_arrays(pair(), pair())
    gray = dataset.load("test", [2], channels=1)["image"]
    np.testing.assert_array_equal(gray[0], convert(IMAGES[2], 1, "white"))
    floats = from_arrays(pair(IMAGES / 255), pair(IMAGES / 255)).load("test", [2], channels=1)["image"]
    np.testing.assert_allclose(floats * 255, gray, atol=1.0)
    clear = np.concatenate([IMAGES[0], np.full((6, 7, 1), 128, np.uint8)], axis=-1)
    for background in ("white", "black"):
        whole = convert(clear, 3, background)
        np.testing.assert_allclose(convert(np.float32(clear / 255), 3, background) * 255, whole, atol=2.0)
    with pytest.raises(UsageError, match="cannot convert images from 3 to 2 channels"):
        dataset.load("test", [0], channels=2)


def test_an_image_of_the_size_is_not_changed():
    image = IMAGES[0]
    assert fit(image, Geometry((6, 7))) is image


@pytest.mark.parametrize(
    ("labels", "names", "read"),
    [
        ([[1], [0], [1]], ("0", "1"), [1, 0, 1]),
        ([1.0, 0.0, 1.0], ("0", "1"), [1, 0, 1]),
        (np.array([True, False, True]), ("0", "1"), [1, 0, 1]),
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        (np.array([b"b", b"a", b"b"]), ("a", "b"), [1, 0, 1]),
        (np.array(["b", "a", "b"], object), ("a", "b"), [1, 0, 1]),
        ([[1, 0], [1, 1], [0, 1]], ("0", "1"), [[1, 0], [1, 1], [0, 1]]),
        (np.float64([[0.3, 0.7]] * 3), ("0", "1"), np.float32([[0.3, 0.7]] * 3)),
    ],
)
def test_labels_are_numbers_names_or_values_of_each_class(labels, names, read):
    dataset = from_arrays(pair(IMAGES[:3], labels), pair(IMAGES[:3], labels))
    assert dataset.class_names == names
    np.testing.assert_array_equal(dataset.labels("test"), read)
    assert dataset.labels("test").dtype == (np.int32 if np.ndim(read) == 1 else np.float32)
    np.testing.assert_array_equal(dataset.load("test", [2])["label"], np.asarray(read)[[2]])


def test_given_names_order_the_classes():
    dataset = from_arrays(pair(labels=["cat", "dog"] * 6), pair(labels=["dog"] * 12), class_names=["dog", "cat"])
    assert dataset.labels("train").tolist() == [1, 0] * 6
    turned = dataset.with_classes(("cat", "owl", "dog"))
    assert turned.labels("train").tolist() == [0, 2] * 6
    assert turned.read("test")[1].tolist() == [2] * 12
    soft = from_arrays(pair(labels=np.eye(3)[LABELS]), pair(labels=np.eye(3)[LABELS]), class_names=["a", "b", "c"])
    np.testing.assert_array_equal(soft.with_classes(("c", "d", "a", "b")).labels("train")[0], [0, 0, 1, 0])
    with pytest.raises(UsageError, match=r"dataset 'arrays' are not classes\. The classes of the run are 'a'"):
        from_arrays({"image": IMAGES}, {"image": IMAGES}).with_classes(("a",))


def test_validation_examples_are_given_or_held_out_of_each_class():
    given = from_arrays(pair(), pair(), validation=pair(IMAGES[:6], LABELS[:6]))
    assert given.examples == {"train": 12, "test": 12, "validation": 6}
    assert given.with_validation("validation", 0) is given
    held_out = from_arrays(pair(), pair()).with_validation(0.25, seed=0)
    assert held_out.examples == {"train": 9, "test": 12, "validation": 3}
    assert sorted(held_out.labels("validation").tolist()) == [0, 1, 2]
    rest = [*held_out.read("train")[0], *held_out.read("validation")[0]]
    assert sorted(image.tobytes() for image in rest) == sorted(image.tobytes() for image in IMAGES)
    with pytest.raises(UsageError, match="unknown split of dataset 'arrays' 'valid'"):
        from_arrays(pair(), pair()).with_validation("valid", 0)


REFUSED = {
    "lengths": (
        pair(labels=LABELS[:11]),
        "the training split has 12 images, but 11 values of 'label'. Give one value for each image.",
    ),
    "vectors": (
        pair(IMAGES[:, 0, 0]),
        r"the training images have the shape \[12, 3\]. Give \[N, H, W, C\] or \[N, H, W\].",
    ),
    "channels first": (pair(np.zeros((12, 3, 8, 8))), r"shape \[12, 3, 8, 8\]. Move the channels to the end"),
    "no pixels": (pair(np.zeros((12, 0, 8, 3))), r"shape \[12, 0, 8, 3\]"),
    "negative": (
        pair(labels=LABELS - 1),
        "label of example 0 of the training split is out of range: -1. Use labels from 0",
    ),
    "fractions": (pair(labels=LABELS + 0.5), "label of example 0 of the training split is not an integer: 0.5"),
    "nan": (pair(labels=np.full(12, np.nan)), "label of example 0 of the training split is not an integer: nan"),
    "gaps": (pair(labels=LABELS + 1), "1 class has no training examples: '0'. Number the classes from 0"),
    "huge": (pair(labels=LABELS * 1000), "the largest label, 2000, is more than the number of examples"),
    "values": (
        pair(labels=np.full((12, 3), 2.0)),
        "label of example 0 of the training split is out of range: .2.0, 2.0",
    ),
    "kinds": (
        pair(labels=["a"] * 12),
        "labels of the test split are integers, but labels of the training split are strings",
    ),
    "dates": (pair(labels=np.zeros(12, "datetime64[s]")), "labels of the training split are of type datetime64"),
    "empty": (pair(IMAGES[:0], LABELS[:0]), "the training split is empty. Give at least one example."),
    "range": (
        pair(IMAGES.astype(int) * 2),
        "the training images have pixels outside 0 to 255, first in example 0.",
    ),
    "words": (pair(np.full((12, 2, 2), "x")), "the training images are of type <U1. Give uint8"),
    "sizes": (pair([IMAGES[0], IMAGES[0, 1:]] * 6), "use from_source for images of different sizes"),
    "triple": ((IMAGES, LABELS, LABELS), r"train is not \(images, labels\): tuple of 3"),
    "nothing": (None, "train is None. Give the training examples"),
    "key": ({"images": IMAGES}, "have no key 'image'. The keys are 'images'. Rename 'images' to 'image'."),
    "other size": (pair(IMAGES[:, 1:]), r"'image' of the test examples is uint8 \[6, 7, 3\], but uint8 \[5, 7, 3\] in"),
    "other type": (pair(IMAGES / 255), r"'image' of the test examples is uint8 \[6, 7, 3\], but float32"),
    "missing": ({"image": IMAGES}, "'label' of the test examples is there, but missing in the training examples"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arrays_that_cannot_be_used_are_refused_in_one_line(case):
    train, says = REFUSED[case]
    with pytest.raises(UsageError, match=says) as error:
        from_arrays(train, pair())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_image_with_pixels_that_are_not_finite_is_named(value, monkeypatch):
    monkeypatch.setattr("jaxcnn.data.sources.pixels.CHECKED_AT_ONCE", 3 * IMAGES[0].size)
    images = IMAGES.astype(np.float32)
    images[8, 1, 1, 1] = images[10] = value
    with pytest.raises(UsageError, match=r"the test images have NaN or infinite pixels, first in example 8. Remove"):
        from_arrays(pair(IMAGES / 255), pair(images))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a", "b"], "label of example 2 of the training split is out of range: 2. Use labels from 0 to 1"),
        (["a", "b", "c", "d", "e"], "2 classes have no training examples: 'd', 'e'."),
        (["a", "b", "a"], "class_names has the same name twice: 'a'"),
        (["a", "b", 3], "class_names is not a list of names"),
        ("abc", "class_names is not a list of names: abc"),
    ],
)
def test_names_that_do_not_fit_are_refused(names, says):
    with pytest.raises(UsageError, match=says):
        from_arrays(pair(), pair(), class_names=names)
    with pytest.raises(UsageError, match="the examples have no 'label'"):
        from_arrays({"image": IMAGES}, {"image": IMAGES}, class_names=["a"])


def test_a_string_that_is_not_a_class_is_refused_with_the_closest():
    labels = ["cat", "dog"] * 6
    with pytest.raises(
        UsageError, match=r"label of example 3 of the test split is not in class_names: 'dgo'. Did you mean"
    ):
        from_arrays(pair(labels=labels), pair(labels=[*labels[:3], "dgo", *labels[4:]]), class_names=["cat", "dog"])


def test_other_contents_shapes_and_numbers_of_examples_change_the_fingerprint():
    def changed(*given, **options):
        found = from_arrays(*given, **options).fingerprint()
        return {part for part in {**before, **found} if before.get(part) != found.get(part)}

    before = from_arrays(pair(), pair()).fingerprint()
    assert set(before) == {
        "the training array 'image'",
        "the training array 'label'",
        "the test array 'image'",
        "the test array 'label'",
    }
    assert not changed(pair(IMAGES.copy()), pair())
    other = IMAGES.copy()
    other[7, 3, 3, 0] ^= 1
    assert changed(pair(other), pair()) == {"the training array 'image'"}
    assert changed(pair(), pair(labels=LABELS[::-1])) == {"the test array 'label'"}
    assert changed(pair(), pair(IMAGES[:9], LABELS[:9])) == {"the test array 'image'", "the test array 'label'"}
    assert changed(
        {"image": IMAGES, "label": LABELS, "mask": LABELS}, {"image": IMAGES, "label": LABELS, "mask": LABELS}
    )


def test_parts_of_large_arrays_are_hashed():
    array = np.zeros(5 << 20, np.uint8)
    before = [hash_arrays([array], most) for most in (2 << 20, 5 << 20)]
    array[int(1.5 * (1 << 20))] = 1  # between the parts that are hashed
    assert hash_arrays([array], 2 << 20) == before[0]
    assert hash_arrays([array], 5 << 20) != before[1]
    array[0] = 1
    assert hash_arrays([array], 2 << 20) != before[0]
