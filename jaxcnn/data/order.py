"""Which examples each step uses, and which training examples are held out for validation."""

import functools
from collections.abc import Callable

import numpy as np

from jaxcnn.errors import UsageError

Order = Callable[[int, int, int], np.ndarray]
"""Function of the seed, the epoch and the number of examples N, that returns the order of an epoch, `[N]`."""

HELD_OUT = 0x76616C
"""Part of the seed, so that the choice is independent of the order of training examples."""


@functools.lru_cache(maxsize=2)
def shuffled(seed: int, epoch: int, examples: int) -> np.ndarray:
    """Return each example once, in random order. Two orders are cached: a batch may cover the end of one epoch."""
    return np.random.default_rng((seed, epoch)).permutation(examples)


def balanced(labels: np.ndarray) -> Order:
    """Return an order in which each class comes equally often in an epoch.

    An epoch has as many examples as the training split. Examples of rare classes come several times, each equally often
    up to one. Of frequent classes, each epoch has other random examples.

    Args:
      labels: class of each training example, int `[N]`. Classes without examples do not count.

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
    """Return `count` of the examples, each equally often up to one."""
    rounds = [random.permutation(examples) for _ in range(-(-count // len(examples)))]
    return np.concatenate([examples[:0], *rounds])[:count]


def batch_indices(step: int, *, examples: int, batch_size: int, seed: int, order: Order = shuffled) -> np.ndarray:
    """Return the indices `[batch_size]` of the examples that training step `step` (from 0) uses.

    Epochs follow one another without a gap, each in a random order of its own, and every batch takes the next
    `batch_size` examples. No batch is short. The last batch of an epoch may contain the first examples of the next one.

    Args:
      step: number of the step.
      examples: number of training examples, and of examples in an epoch.
      batch_size: examples in a batch.
      seed: seed of the order.
      order: `shuffled`, in which each example comes exactly once per epoch, or one of `balanced`.

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
    """Return the rows of a batch that process `p` of `P` feeds, for the share `(p, P)`.

    >>> rows_of((1, 4), 64)
    slice(16, 32, None)
    """
    part, parts = share
    return slice(batch_size * part // parts, batch_size * (part + 1) // parts)


def choose_validation(count: int, labels: np.ndarray | None, part: float, seed: int) -> np.ndarray:
    """Return the positions of the examples to hold out, in increasing order.

    Args:
      count: number of training examples.
      labels: class of each, int `[count]`, of which the same fraction is held out each, or None. One example of each
        class stays in the training split.
      part: fraction to hold out, between 0 and 1.
      seed: seed of the choice.

    Raises:
      UsageError: if the fraction is out of range, or too small for one example.

    >>> choose_validation(8, np.array([0, 0, 0, 0, 1, 1, 1, 1]), 0.5, seed=0).tolist()
    [0, 3, 6, 7]
    """
    if not 0 < part < 1:
        raise UsageError(f"validation is out of range: {part:g}. Use a fraction between 0 and 1, or a split's name.")
    wanted = round(count * part)
    order = np.random.default_rng((seed, HELD_OUT)).permutation(count)
    all_alike = order[: min(wanted, count - 1)]
    chosen = all_alike if labels is None else _of_each_class(order, labels, wanted, part)
    if len(chosen) == 0:
        raise UsageError(
            f"validation {part:g} of {count:,} training examples is less than one example. Use a larger fraction."
        )
    return np.sort(chosen)


def _of_each_class(order: np.ndarray, labels: np.ndarray, wanted: int, part: float) -> np.ndarray:
    """Return the first examples of each class in `order`, in proportion to the size of the class."""
    counts = np.bincount(labels)
    exact = counts * part
    quotas = np.floor(exact).astype(np.int64)
    # The largest remainders get the examples that rounding down leaves.
    by_remainder = np.argsort(quotas - exact, kind="stable")
    quotas[by_remainder[: max(wanted - quotas.sum(), 0)]] += 1
    quotas = np.minimum(quotas, np.maximum(counts - 1, 0))
    by_class = order[np.argsort(labels[order], kind="stable")]
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return by_class[rank < np.repeat(quotas, counts)]
