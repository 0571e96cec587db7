"""Choose the examples of each training step, and the training examples to hold out for validation."""

import functools
from collections.abc import Callable

import numpy as np

from jaxcnn.errors import UsageError

Order = Callable[[int, int, int], np.ndarray]
"""Function `(seed, epoch, examples) -> indices` that returns the order of an epoch, int `[examples]`."""

HELD_OUT = 0x76616C
"""Constant in the random seed of the validation split, which makes the split independent of the training order."""


@functools.lru_cache(maxsize=2)
def shuffled(seed: int, epoch: int, examples: int) -> np.ndarray:
    """Return a random permutation of the indices of the examples, int `[examples]`.

    The last two permutations are cached, because a batch may contain examples of two epochs.
    """
    return np.random.default_rng((seed, epoch)).permutation(examples)


def balanced(labels: np.ndarray) -> Order:
    """Return an order in which an epoch contains equally many examples of each class, up to a difference of one.

    An epoch has as many examples as the training split. The examples of a rare class are repeated in an epoch. Each
    example of the class is repeated equally often, up to a difference of one. Each epoch uses a new random subset of
    the examples of a frequent class.

    Args:
      labels: class of each training example, int `[N]`. Classes without examples are ignored.

    >>> order = balanced(np.array([0, 0, 0, 0, 0, 0, 2, 2]))
    >>> sorted(order(0, 0, 8).tolist())[4:]
    [6, 6, 7, 7]
    """
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    members = np.split(by_class, np.cumsum(counts[counts > 0])[:-1])

    @functools.lru_cache(maxsize=2)
    def order(seed: int, epoch: int, examples: int) -> np.ndarray:
        random = np.random.default_rng((seed, epoch))
        wanted = np.full(len(members), examples // len(members))
        wanted[random.permutation(len(members))[: examples % len(members)]] += 1
        drawn = [_draw(random, of_class, count) for of_class, count in zip(members, wanted.tolist(), strict=True)]
        return random.permutation(np.concatenate(drawn))

    return order


def _draw(random: np.random.Generator, examples: np.ndarray, count: int) -> np.ndarray:
    """Return `count` examples in random order. All examples are repeated equally often, up to a difference of one."""
    rounds = [random.permutation(examples) for _ in range(-(-count // len(examples)))]
    return np.concatenate([examples[:0], *rounds])[:count]


def batch_indices(step: int, *, examples: int, batch_size: int, seed: int, order: Order = shuffled) -> np.ndarray:
    """Return the indices of the examples that the training step `step` uses, int `[batch_size]`.

    Each epoch has its own random order of the examples. The epochs form one continuous sequence of examples, and each
    batch contains the next `batch_size` examples of this sequence. All batches are therefore full. The last batch of an
    epoch may also contain the first examples of the next epoch.

    Args:
      step: number of the training step, from 0.
      examples: number of training examples, which is also the number of examples in an epoch.
      batch_size: number of examples in a batch.
      seed: random seed of the order.
      order: function that returns the order of an epoch: `shuffled`, which uses each example once per epoch, or the
        result of `balanced`.

    >>> sorted(int(i) for step in range(2) for i in batch_indices(step, examples=6, batch_size=3, seed=0))
    [0, 1, 2, 3, 4, 5]
    """
    position, needed, parts = step * batch_size, batch_size, []
    while needed:
        epoch, start = divmod(position, examples)
        part = order(seed, epoch, examples)[start : start + needed]
        parts.append(part)
        position, needed = position + len(part), needed - len(part)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def rows_of(share: tuple[int, int], batch_size: int) -> slice:
    """Return the slice of a batch that one process loads.

    Args:
      share: `(p, P)`, where p is the index of the process and P is the number of processes.
      batch_size: number of examples in the batch, over all processes together.

    >>> rows_of((1, 4), 64)
    slice(16, 32, None)
    """
    part, parts = share
    return slice(batch_size * part // parts, batch_size * (part + 1) // parts)


def choose_validation(count: int, labels: np.ndarray | None, part: float, seed: int) -> np.ndarray:
    """Return the indices of the training examples to hold out for validation, in ascending order.

    Args:
      count: number of training examples.
      labels: class of each training example, int `[count]`, or None. If labels are given, the same fraction of each
        class is held out, and at least one example of each class stays in the training split.
      part: fraction of the training examples to hold out, between 0 and 1.
      seed: random seed of the choice of examples.

    Raises:
      UsageError: if `part` is not between 0 and 1, or is too small to hold out one example.

    >>> choose_validation(8, np.array([0, 0, 0, 0, 1, 1, 1, 1]), 0.5, seed=0).tolist()
    [0, 3, 6, 7]
    """
    if not 0 < part < 1:
        raise UsageError(
            f"validation is out of range: {part:g}. Use a fraction between 0 and 1, or the name of a split."
        )
    wanted = round(count * part)
    order = np.random.default_rng((seed, HELD_OUT)).permutation(count)
    all_alike = order[: min(wanted, count - 1)]
    chosen = all_alike if labels is None else _of_each_class(order, labels, wanted, part)
    if len(chosen) == 0:
        raise UsageError(
            f"validation is too small: {part:g} of {count:,} training examples is less than one example. "
            "Use a larger fraction."
        )
    return np.sort(chosen)


def _of_each_class(order: np.ndarray, labels: np.ndarray, wanted: int, part: float) -> np.ndarray:
    """Return about `wanted` examples. Choose the first examples of each class in `order`, in proportion to its size."""
    counts = np.bincount(labels)
    exact = counts * part
    quotas = np.floor(exact).astype(np.int64)
    # The number for each class is rounded down. The missing examples come from the classes with the largest remainders.
    by_remainder = np.argsort(quotas - exact, kind="stable")
    quotas[by_remainder[: max(wanted - quotas.sum(), 0)]] += 1
    quotas = np.minimum(quotas, np.maximum(counts - 1, 0))
    by_class = order[np.argsort(labels[order], kind="stable")]
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return by_class[rank < np.repeat(quotas, counts)]
