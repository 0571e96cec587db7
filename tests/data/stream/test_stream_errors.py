"""Mistakes in streams are one line, which names the batch."""

import itertools

import numpy as np
import pytest

from jaxcnn.data import Geometry, from_batches, open_pipeline
from jaxcnn.errors import UsageError

NAMES = ("a", "b", "c")


def make(streams, train=None, test=None, **options):
    train = streams.cut(np.arange(12), 4) if train is None else train
    test = streams.cut(np.arange(5), 2) if test is None else test
    return from_batches(train, test, **{"examples": 12, "class_names": NAMES, **options})


def one_line(run, *, said):
    with pytest.raises(UsageError) as caught:
        run()
    assert "\n" not in str(caught.value)
    assert said in str(caught.value)


def numbered(streams, **wrong):
    """Return three batches, of which number 2 has wrong parts. A part that is None is left out."""
    batches = streams.cut(np.arange(12), 4)
    batches[2] = {name: part for name, part in {**batches[2], **wrong}.items() if part is not None}
    return batches


WRONG = {
    "label out of range": ({"label": np.array([0, 1, 2, 3])}, "labels of batch 2 of the training iterator are out of"),
    "negative label": ({"label": np.array([0, -1, 2, 0])}, "out of range: -1. Use labels from 0 to 2"),
    "one-hot label": ({"label": np.zeros((4, 5))}, "have shape (4, 5) and dtype float64 for 3 classes"),
    "text label": ({"label": np.array(["a", "b", "c", "a"])}, "'label' of batch 2 of the training iterator has dtype"),
    "no label": ({"label": None}, "batch 2 of the training iterator has no 'label'"),
    "no image": ({"image": None, "images": np.zeros((4, 4, 5, 3))}, "has no 'image'. Rename 'images' to 'image'"),
    "other key": ({"mask": np.zeros(4)}, "batch 2 of the training iterator has 'mask', unlike the first batch"),
    "other size": ({"image": np.zeros((4, 9, 9, 3), np.uint8)}, "of the training iterator have shape (9, 9, 3), not"),
    "other dtype": ({"image": np.zeros((4, 4, 5, 3))}, "images of batch 2 of the training iterator are float32, but"),
    "integers": ({"image": np.zeros((4, 4, 5, 3), int)}, "are int64. Convert the images to uint8 or float32"),
    "flat": ({"image": np.zeros((4, 60), np.uint8)}, "have shape (4, 60). Return images [N, H, W, C]"),
    "lengths": ({"label": np.zeros(3, int)}, "'label' of batch 2 of the training iterator has shape (3,) for 4 images"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_batch_is_named(streams, wrong):
    parts, said = WRONG[wrong]
    data = make(streams, lambda: numbered(streams, **parts))
    batches = open_pipeline(data, 4).batches()
    assert streams.numbers([next(batches), next(batches)]) == list(range(8))  # what was right before is used
    one_line(lambda: next(batches), said=said)


def test_nan_pixels_are_found(streams):
    batches = [(np.zeros((4, 4, 5, 3), np.float32), np.zeros(4, int)) for _ in range(3)]
    batches[1][0][2, 1, 1, 1] = np.nan
    said = "images of batch 1 of the training iterator have infinite or NaN pixels"
    one_line(lambda: list(open_pipeline(make(streams, batches), 4).batches(counts=[3])), said=said)


def test_labels_beyond_those_of_the_first_pass_are_refused(streams):
    def train():
        for start in itertools.count(0, 4000):
            yield {"image": np.zeros((4000, 1, 1, 1), np.uint8), "label": np.full(4000, start // 10_000)}

    data = make(streams, train, class_names=None, examples=20_000)
    assert data.class_names == ("0",)
    said = "labels of batch 3 of the training iterator are out of range: 1. Use labels from 0 to 0, or give class_names"
    one_line(lambda: list(open_pipeline(data, 4000).batches(counts=[4])), said=said)


def test_labels_that_are_too_large_for_classes_are_refused(streams):
    batches = [(np.zeros((12, 4, 4), np.uint8), np.full(12, 1_700_000_000))]
    one_line(lambda: make(streams, batches, class_names=None), said="too large for classes: 1700000000. Return floats")


@pytest.mark.parametrize("came", [8, 16])
def test_an_iterator_of_another_length_than_promised_is_refused(streams, came):
    data = make(streams, lambda: iter(streams.cut(np.arange(came), 4)))
    said = f"the training iterator ended after {came} examples, but examples is 12. Set examples to"
    one_line(lambda: list(open_pipeline(data, 4).batches(counts=[1] * 9)), said=said)


def test_empty_iterators_are_refused(streams):
    one_line(lambda: make(streams, list), said="the training iterator is empty")
    one_line(lambda: make(streams, []), said="the training iterator is empty")
    one_line(lambda: list(open_pipeline(make(streams, test=[]), 4).evaluation_batches(4)), said="test iterator is e")
    once = iter([streams.cut(np.arange(12), 4), []])
    data = make(streams, lambda: iter(next(once)))
    one_line(lambda: list(open_pipeline(data, 4).batches(counts=[1])), said="the training iterator is empty")


@pytest.mark.parametrize(("lengths", "said"), [((5, 6), "more than 5 examples"), ((6, 5), "5 examples, not 6")])
def test_an_evaluation_stream_that_changes_length_is_refused(streams, lengths, said):
    passes = iter(lengths)
    pipeline = open_pipeline(make(streams, test=lambda: streams.cut(np.arange(next(passes)), 2)), 4)
    list(pipeline.evaluation_batches(4))
    one_line(lambda: list(pipeline.evaluation_batches(4)), said=f"the test iterator changes length: {said}")


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (iter([]), "train is an iterator, which can be read only once: list_iterator. Pass a function"),
        ({"image": np.zeros(3)}, "train is not an iterator of batches: dict"),
        (7, "train is not an iterator of batches: int"),
        (lambda: 7, "train returned no iterator: int"),
        (lambda: ["abc"], "batch 0 of the training iterator is a str"),
        (lambda: [{"x": np.zeros(3)}], "batch 0 of the training iterator has no 'image'. Rename 'x' to 'image'"),
    ],
)
def test_what_is_no_stream_is_refused(streams, train, said):
    one_line(lambda: make(streams, train), said=said)


def test_a_function_that_returns_the_same_iterator_again_is_refused(streams):
    same = (batch for batch in streams.cut(np.arange(12), 4))
    data = make(streams, lambda: same)
    said = "train returns the same iterator again. Return a new iterator in each call"
    one_line(lambda: next(open_pipeline(data, 4).batches()), said=said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"examples": 0}, "examples is not a number of training examples: 0"),
        ({"examples": 1.5}, "examples is not a number of training examples: 1.5"),
        ({"class_names": "abc"}, "class_names is one string: 'abc'"),
        ({"class_names": ("a", "a", "b")}, "class_names has the same name twice: 'a'"),
        ({"image_shape": (4, 5)}, "image_shape is not (H, W, C): (4, 5)"),
        ({"image_shape": (4, 4, 3)}, "have shape (4, 5, 3), not (4, 4, 3)"),
    ],
)
def test_impossible_arguments_are_refused(streams, options, said):
    one_line(lambda: make(streams, **options), said=said)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda data: data.load("train", [0]), "examples of the train split cannot be loaded by index"),
        (lambda data: data.labels("train"), "training labels cannot be listed for class weights"),
        (lambda data: data.decoded("train"), "the training split cannot be kept in memory"),
        (lambda data: data.with_validation(0.1, 0), "no fraction of the training split can be held out"),
        (lambda data: data.with_validation("dev", 0), "unknown split of dataset 'batches' 'dev'"),
        (lambda data: open_pipeline(data, 4, sampling="balanced"), "sampling cannot be balanced"),
        (lambda data: open_pipeline(data, 4, geometry=Geometry((8, 8))), "images of a stream keep their size, 4x5"),
        (lambda data: open_pipeline(data, 13), "batch_size must be from 1 to the 12 training images, got 13"),
        (lambda data: open_pipeline(data, 4).evaluation_batches(4, split="train"), "unknown split for evaluation"),
        (lambda data: open_pipeline(data, 4).evaluation_batches(4, split="validation"), "unknown split for evaluation"),
    ],
)
def test_what_needs_random_access_is_refused(streams, use, said):
    one_line(lambda: use(make(streams)), said=said)
