"""Batches of the user's iterators: regrouped, converted and checked, and read in the background."""

import gc
import itertools
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.data import Padded, from_batches, open_pipeline
from jaxcnn.data.pipeline import READ_AHEAD
from jaxcnn.data.stream.background import THREAD
from jaxcnn.errors import UsageError


class Tensor:
    """Like a tensor of torch."""

    def __init__(self, array):
        self._array = array

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self._array


def make(streams, train=None, test=None, **options):
    train = streams.cut(np.arange(12), 4) if train is None else train
    test = streams.cut(np.arange(5), 2) if test is None else test
    return from_batches(train, test, **{"examples": 12, **options})


def take(pipeline, count):
    return list(itertools.islice(pipeline.batches(), count))


@settings(deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(sum), batch_size=st.integers(1, 20))
def test_batches_are_regrouped_in_order_across_epochs(streams, lengths, batch_size):
    examples = sum(lengths)
    parts = [streams.batch(part) for part in np.split(np.arange(examples), np.cumsum(lengths)[:-1])]
    batch_size = min(batch_size, examples)
    batches = take(open_pipeline(make(streams, parts, examples=examples), batch_size), 7)
    assert all(len(batch["image"]) == len(batch["label"]) == batch_size for batch in batches)
    assert streams.numbers(batches) == list(itertools.islice(itertools.cycle(range(examples)), 7 * batch_size))
    assert all((batch["label"] == batch["image"][:, 0, 0, 0] % 3).all() for batch in batches)


@settings(deadline=None, max_examples=30)
@given(examples=st.integers(1, 40), length=st.integers(1, 9), batch_size=st.integers(1, 20), parts=st.integers(1, 3))
def test_an_evaluation_has_each_example_once_in_full_batches(streams, examples, length, batch_size, parts):
    data = make(streams, test=streams.cut(np.arange(examples), length), class_names=("a", "b", "c"))
    pipeline = open_pipeline(data, parts, share=(parts - 1, parts))
    for _ in range(2):
        padded = list(pipeline.evaluation_batches(parts * batch_size))
        assert all(len(mask) == len(batch["image"]) == len(batch["label"]) == batch_size for batch, mask in padded)
        assert streams.numbers({"image": batch["image"][mask]} for batch, mask in padded) == list(range(examples))
        assert all(not batch["image"][~mask].any() for batch, mask in padded)
    assert data.examples["test"] == examples


def test_a_batch_of_the_right_length_is_not_copied(streams):
    batches = streams.cut(np.arange(12), 4)
    for read, given_batch in zip(take(open_pipeline(make(streams, batches), 4), 3), batches, strict=True):
        assert read["image"] is given_batch["image"]


@pytest.mark.parametrize(
    "convert",
    [
        lambda images, labels: {"label": labels, "image": images},
        lambda images, labels: (images, labels),
        lambda images, labels: [Tensor(images), Tensor(labels)],
        lambda images, labels: (Tensor(images.transpose(0, 3, 1, 2)), labels),
        lambda images, labels: {"image": jnp.asarray(images), "label": labels.tolist()},
        lambda images, labels: (images, labels[:, None]),
    ],
)
def test_batches_of_every_library_become_numpy_arrays(streams, convert):
    numbers = np.arange(12)
    data = make(streams, [convert(streams.images(numbers), numbers % 3)])
    (batch,) = take(open_pipeline(data, 12), 1)
    assert (data.image_shape, data.class_names, data.pixel_range) == (streams.shape, ("0", "1", "2"), 255.0)
    assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(batch["image"], streams.images(numbers))
    np.testing.assert_array_equal(batch["label"], numbers % 3)


def test_grey_images_without_channels_and_other_keys_are_passed_on(streams):
    batch = {
        "image": np.zeros((12, 6, 7)),
        "label": np.ones((12, 4)),
        "boxes": {"corners": np.arange(24).reshape(12, 2)},
    }
    data = make(streams, [batch])
    assert (data.image_shape, data.num_classes, data.pixel_range) == ((6, 7, 1), 4, 1.0)
    read, _ = take(open_pipeline(data, 5), 2)
    assert (read["image"].shape, read["image"].dtype) == ((5, 6, 7, 1), np.float32)
    assert (read["label"].shape, read["label"].dtype) == ((5, 4), np.float32)
    np.testing.assert_array_equal(read["boxes"]["corners"], np.arange(10).reshape(5, 2))


def test_image_shape_decides_where_the_channels_are(streams):
    images = np.zeros((12, 3, 8, 4), np.uint8)  # 3 x 8 pixels of 4 channels, or 3 channels of 8 x 4 pixels
    assert make(streams, [(images, np.zeros(12, int))]).image_shape == (3, 8, 4)
    assert make(streams, [(images, np.zeros(12, int))], image_shape=(8, 4, 3)).image_shape == (8, 4, 3)


def test_the_epoch_is_passed_to_functions_with_a_parameter(streams):
    opened = []

    def batches(epoch):
        opened.append(epoch)
        return iter(streams.cut(np.arange(12), 4))

    take(open_pipeline(make(streams, batches, class_names=("a", "b", "c")), 12), 3)
    assert opened[:4] == [0, 0, 1, 2]  # the first batch, then the epochs
    loader = streams.cut(np.arange(12), 4)
    assert len(take(open_pipeline(make(streams, lambda loader=loader: iter(loader)), 12), 3)) == 3


def test_statistics_are_those_of_the_first_pass(streams):
    random = np.random.default_rng(0)
    for images in (random.integers(256, size=(12, 8, 8, 3), dtype=np.uint8), 5 + random.normal(size=(12, 8, 8, 3))):
        scale = 255.0 if images.dtype == np.uint8 else 1.0
        for class_names in (None, ("a", "b", "c")):
            parts = [(images[start : start + 5], np.arange(len(images[start : start + 5])) % 3) for start in (0, 5, 10)]
            statistics = make(streams, parts, class_names=class_names).statistics()
            np.testing.assert_allclose(statistics.mean, (images / scale).mean((0, 1, 2)), rtol=1e-5)
            np.testing.assert_allclose(statistics.std, (images / scale).std((0, 1, 2)), rtol=1e-5)


def test_statistics_read_no_more_than_their_sample(streams):
    read = []

    def endless():
        for start in itertools.count():
            read.append(start)
            yield streams.batch(np.arange(4000) % 200)

    assert make(streams, endless).class_names == ("0", "1", "2")
    assert len(read) == 3  # 10,000 examples


def test_labels_follow_the_classes_of_a_run(streams):
    data = make(streams, class_names=("a", "b", "c")).with_classes(("c", "x", "b", "a"))
    (batch,) = take(open_pipeline(data, 12), 1)
    np.testing.assert_array_equal(batch["label"], np.array([3, 2, 0])[np.arange(12) % 3])
    np.testing.assert_array_equal(data.labels("test"), [3, 2, 0, 3, 2])


def test_a_stream_is_identified_by_its_examples_classes_and_shape(streams):
    def of(**options):
        return make(streams, **{"class_names": ("a", "b", "c"), **options}).fingerprint()

    assert of() == of(train=streams.shuffling(12, 5))
    others = [
        {"examples": 24},
        {"class_names": ("a", "b", "d")},
        {"train": [(np.zeros((12, 4, 4)), np.zeros(12, int))]},
    ]
    assert all(of(**other) != of() for other in others)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


@pytest.mark.parametrize("stop", ["close", "forget", "error"])
def test_no_thread_is_left_when_reading_stops(streams, stop):
    def batches():
        yield from streams.cut(np.arange(12), 4)
        if stop == "error":
            raise OSError("disk")

    data = make(streams, batches, class_names=("a", "b", "c"))
    iterator = open_pipeline(data, 4).batches(place=lambda batch: batch)
    assert threads() == []
    if stop == "error":
        with pytest.raises(OSError, match="disk"):
            list(iterator)
    else:
        next(iterator)
        assert len(threads()) == 1
    if stop == "close":
        iterator.close()
    del iterator
    gc.collect()
    assert threads() == []


def test_errors_come_after_the_batches_before_them(streams):
    def batches():
        yield from streams.cut(np.arange(8), 4)
        raise OSError("disk")

    iterator = open_pipeline(make(streams, batches, class_names=("a", "b", "c")), 4).batches()
    assert streams.numbers([next(iterator), next(iterator)]) == list(range(8))
    with pytest.raises(OSError, match="disk"):
        next(iterator)


def test_an_error_that_opens_the_next_epoch_spares_the_last_step(streams):
    def batches(epoch):
        if epoch:
            raise OSError("no more")
        return iter(streams.cut(np.arange(12), 4))

    data = make(streams, batches, class_names=("a", "b", "c"))
    assert len(list(open_pipeline(data, 4).batches(counts=[2, 1]))) == 2
    iterator = open_pipeline(data, 12).batches()
    assert len(next(iterator)["image"]) == 12
    with pytest.raises(OSError, match="no more"):
        next(iterator)


def test_reading_is_ahead_by_a_bounded_number_of_items_and_waiting_is_counted(streams):
    read, allowed = [], threading.Event()

    def endless():
        for number in itertools.count():
            if number == 1 and len(read) > 1:
                allowed.wait()
            read.append(number)
            yield streams.batch(np.arange(4))

    pipeline = open_pipeline(make(streams, endless, class_names=("a", "b", "c"), examples=1000), 4)
    iterator = pipeline.batches()
    next(iterator)
    before = pipeline.waited
    threading.Timer(0.2, allowed.set).start()
    next(iterator)
    assert pipeline.waited - before > 0.1
    deadline = time.monotonic() + 5
    while len(read) < 1 + 2 + READ_AHEAD + 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(read) == 1 + 2 + READ_AHEAD + 1  # the first batch, two that were used, the queue, and one in the thread
    iterator.close()
    assert pipeline.advice(0.05) is None
    assert "steps waited for data 50% of the time" in pipeline.advice(0.5)


def test_steps_of_one_call_come_in_a_list(streams):
    items = list(open_pipeline(make(streams), 4).batches(counts=[1, 3, 2]))
    assert [len(item) for item in items] == [1, 3, 2]
    assert streams.numbers(items) == [*range(12), *range(12)]


def test_augmentations_are_left_for_the_device_and_batches_are_placed(streams):
    pipeline = open_pipeline(make(streams), 4, augment=("resized_crop", "flip"))
    assert (pipeline.device_augment, pipeline.residence) == (("resized_crop", "flip"), "stream")
    placed = list(pipeline.evaluation_batches(4, place=lambda item: ("placed", item)))
    assert all(name == "placed" and isinstance(item, Padded) for name, item in placed)


def test_examples_are_counted_where_the_iterable_has_a_length(streams):
    assert make(streams, examples=None).examples["train"] == 12
    with pytest.raises(UsageError, match="examples is missing, and train has no length"):
        make(streams, streams.shuffling(12, 4), examples=None)


def test_a_validation_stream_is_evaluated_like_the_test_stream(streams):
    data = make(streams, validation=streams.cut(np.arange(7), 3))
    assert data.with_validation("validation", seed=0) is data
    assert dict(data.examples) == {"train": 12, "test": 5, "validation": 7}
    batches = open_pipeline(data, 4).evaluation_batches(4, split="validation")
    assert streams.numbers({"image": batch["image"][mask]} for batch, mask in batches) == list(range(7))
