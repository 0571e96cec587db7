"""Each step of a run, compared with the step of one device from the same state on the whole batch."""

import contextlib
import dataclasses
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxcnn.train import make_parallel
from jaxcnn.train.runtime.plan import Plan

BOUNDS = {"params": 1e-6, "opt_state": 1e-6, "batch_stats": 2e-6}
"""Largest differences, relative to the largest value of the part of the state."""

Found = dict[str, Any]


@contextlib.contextmanager
def comparing_steps(tell: Callable[[int, Found], None]) -> Iterator[None]:
    """Compare each step of the runs in the block. All runs in it have the same programs.

    Args:
      tell: gets the number of a step, from 1, and what was found: the differences of `BOUNDS`, whether each device got
        its rows of the batch (`same_batch`), and a checksum of the whole batch (`batch`).
    """
    compile_steps, programs = Plan.compile_train_steps, {}

    def compile_and_compare(plan: Plan, count: int) -> Callable[..., Any]:
        assert count == 1
        make, alone = compile_steps(plan, count), _alone(plan, programs)

        def step(state: Any, batches: Any) -> Any:
            before = plan.parallel.fetch_state(state)
            expected, batch = alone(before)
            same = _has_rows(batches, batch)
            after, sums = make(state, batches)
            found = _differences(plan.parallel.fetch_state(after), expected)
            checksum = zlib.crc32(b"".join(np.ascontiguousarray(part).tobytes() for part in jax.tree.leaves(batch)))
            tell(int(before.step) + 1, {**found, "same_batch": same, "batch": checksum})
            return after, sums

        return step

    Plan.compile_train_steps = compile_and_compare
    try:
        yield
    finally:
        Plan.compile_train_steps = compile_steps


def wrong(step: int, found: Found) -> list[str]:
    """Return what is wrong with a step, one line each."""
    lines = [
        f"step {step}: {part} differ by {found[part]:.1e}" for part, bound in BOUNDS.items() if not found[part] <= bound
    ]
    return lines if found["same_batch"] else [*lines, f"step {step}: other examples"]


def _alone(plan: Plan, programs: dict[Any, Any]) -> Callable[[Any], tuple[Any, Any]]:
    """Return a function that makes the next step of a host state on one device: the state after it, and the batch."""
    one = make_parallel("jit", jax.local_devices()[:1])
    if "alone" not in programs:
        programs["alone"] = one.compile(plan.train_step(), donate_state=True)
    pipeline = dataclasses.replace(plan.pipeline, share=(0, 1))

    def step(state: Any) -> tuple[Any, Any]:
        batch = next(iter(pipeline.batches(int(state.step))))
        after, _ = programs["alone"](one.place_state(state), one.place_batch(batch))
        return one.fetch_state(after), batch

    return step


def _has_rows(placed: Any, batch: Any) -> bool:
    """Return whether the devices of this process hold their rows of a batch."""

    def same(array: jax.Array, whole: np.ndarray) -> bool:
        rows = whole.reshape(array.shape)
        return all(np.array_equal(np.asarray(part.data), rows[part.index]) for part in array.addressable_shards)

    return all(jax.tree.leaves(jax.tree.map(same, placed, batch)))


def _differences(ours: Any, theirs: Any) -> dict[str, float]:
    """Return, for each part of a state, the largest difference relative to its largest value."""
    found = {}
    for part in BOUNDS:
        a, b = (jax.tree.leaves(getattr(state, part)) for state in (ours, theirs))
        largest = max(float(np.abs(y).max()) for y in b)
        most = max(float(np.abs(np.asarray(x, np.float64) - y).max()) for x, y in zip(a, b, strict=True))
        found[part] = most / largest if largest else most
    return found
