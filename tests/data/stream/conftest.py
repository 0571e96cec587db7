"""Streams of small batches whose images carry the numbers of their examples."""

import itertools
import types

import numpy as np
import pytest

SHAPE = (4, 5, 3)


def images(numbers):
    """Return images `[N, *SHAPE]` that are filled with the numbers of their examples."""
    return np.broadcast_to(np.asarray(numbers, np.uint8)[:, None, None, None], (len(numbers), *SHAPE)).copy()


def batch(numbers):
    """Return a batch of the examples of these numbers."""
    return {"image": images(numbers), "label": np.asarray(numbers, np.int64) % 3}


def cut(numbers, length):
    """Return batches of the examples of these numbers, in this order."""
    return [batch(numbers[start : start + length]) for start in range(0, len(numbers), length)]


def shuffling(examples, length):
    """Return a function that yields the examples in an order of the epoch."""

    def batches(epoch):
        yield from cut(np.random.default_rng(epoch).permutation(examples), length)

    return batches


def numbers(batches):
    """Return the numbers of the examples in batches, which may be in lists of the batches of one call."""
    flat = itertools.chain.from_iterable(item if isinstance(item, list) else [item] for item in batches)
    return [int(number) for one in flat for number in one["image"][:, 0, 0, 0]]


@pytest.fixture(scope="session")
def streams():
    """The functions above, by name."""
    return types.SimpleNamespace(shape=SHAPE, images=images, batch=batch, cut=cut, shuffling=shuffling, numbers=numbers)
