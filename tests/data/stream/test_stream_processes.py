"""Streams of several processes, each of which reads its own part."""

import itertools

import numpy as np
import pytest

from jaxcnn.data import from_batches, open_pipeline
from jaxcnn.data.stream import counts, measure
from jaxcnn.data.stream.measure import Moments
from jaxcnn.errors import UsageError


def make(streams, train=None, test=None, **options):
    train = streams.cut(np.arange(12), 4) if train is None else train
    test = streams.cut(np.arange(5), 2) if test is None else test
    return from_batches(train, test, **{"examples": 12, **options})


def take(pipeline, count):
    return list(itertools.islice(pipeline.batches(), count))


def test_processes_read_their_own_parts(streams):
    data = [
        make(streams, streams.cut(np.arange(part, 11, 2), 3), examples=11, class_names=("a", "b", "c"))
        for part in (0, 1)
    ]
    pipelines = [open_pipeline(part, 4, share=(index, 2)) for index, part in enumerate(data)]
    read = [streams.numbers(take(pipeline, 6)) for pipeline in pipelines]
    assert read[0] == [*range(0, 11, 2), *range(0, 11, 2)]
    assert read[1] == [*range(1, 11, 2), *range(1, 11, 2), 1, 3]


def test_all_processes_make_the_same_number_of_evaluation_steps(streams, monkeypatch):
    monkeypatch.setattr(counts, "gather", lambda count: [count, np.array(17)])  # of the other process
    data = make(streams, class_names=("a", "b", "c"))
    padded = list(open_pipeline(data, 4, share=(0, 2)).evaluation_batches(8))
    assert data.examples["test"] == 5 + 17
    assert [mask.sum() for _, mask in padded] == [4, 1, 0, 0, 0]
    assert all(batch["image"].shape == (4, *streams.shape) for batch, _ in padded)


def test_statistics_are_those_of_all_processes(streams, monkeypatch):
    images = np.random.default_rng(0).normal(5, 2, size=(12, 4, 4, 3)).astype(np.float32)
    parts = [Moments(), Moments()]
    parts[0].add(images[:5])
    parts[1].add(images[5:])
    packed = [np.concatenate([[part.count], part.mean, part.squares]) for part in parts]
    monkeypatch.setattr(measure, "gather", lambda mine: packed)
    statistics = parts[0].statistics()
    np.testing.assert_allclose(statistics.mean, images.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(statistics.std, images.std((0, 1, 2)), rtol=1e-5)


def test_several_processes_must_be_given_what_one_cannot_find(streams):
    with pytest.raises(UsageError, match="class_names is missing: each of"):
        open_pipeline(make(streams), 4, share=(0, 2))
