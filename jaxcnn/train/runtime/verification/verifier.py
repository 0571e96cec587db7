"""Verify the steps since the last verification, and go back to the last verified step if a device made an error."""

import collections
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn.errors import RunError
from jaxcnn.train.devices import distributed
from jaxcnn.train.devices.fingerprints import replicated_leaves
from jaxcnn.train.devices.launch import BAD_DEVICE
from jaxcnn.train.metrics import Sums
from jaxcnn.train.runtime.integrity import named_leaves
from jaxcnn.train.runtime.plan import Plan
from jaxcnn.train.runtime.record import VERIFY, Row
from jaxcnn.train.runtime.verification.bounds import Bounds
from jaxcnn.train.runtime.verification.replay import Kept, Replayer
from jaxcnn.train.state import TrainState

STRIKES = 3
"""Number of errors of one device after which a run stops."""

_log = logging.getLogger(__name__)


class CorruptDeviceError(RunError):
    """Raised when a device has repeatedly computed or stored wrong values. The checkpoints are verified and kept.

    Attributes:
      elsewhere: whether the device is known to belong to another process. If True, this process may continue without
        the device.

    >>> CorruptDeviceError.exit_status  # a scheduler excludes the machine after this exit status
    71
    """

    exit_status = BAD_DEVICE

    def __init__(self, message: str, *, elsewhere: bool = False):
        super().__init__(message)
        self.elsewhere = elsewhere


@dataclass(frozen=True)
class Mismatch:
    """Description of training steps whose results are wrong.

    Attributes:
      check: the check that found the error: "replicas", "replay" or "bounds".
      leaves: names of the wrong arrays, such as "params/Conv_0/kernel", ordered from the largest error to the smallest.
      devices: names of the devices with wrong values. Empty if the faulty device cannot be determined.
    """

    check: str
    leaves: tuple[str, ...]
    devices: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {len(self.leaves) - 1} more arrays" if len(self.leaves) > 1 else ""
        where = " and ".join(self.devices) or "an unknown device"
        return f"silent data corruption on {where}: {next(iter(self.leaves))}{more}, found by {self.check}"


class Verifier:
    """Keep the last verified state of a run, and verify the steps made since then.

    Args:
      plan: parts of the run. `plan.config.verify_every` must not be None.
      step: number of steps that the run has made so far.
      state: the state after step `step`, which counts as verified.
    """

    def __init__(self, plan: Plan, step: int, state: TrainState):
        config = plan.config
        assert config.verify_every is not None
        self._plan, self._every, self._checks = plan, config.verify_every, config.verify
        self._replayer = Replayer(plan)
        self._bounds = Bounds(self._checks.bounds)
        self._names = tuple(named_leaves(plan.template))
        self._replicated = replicated_leaves(plan.parallel, plan.template)
        self._verified = self._replayer.keep(step, state, self._replayer.start_fingerprints(state))
        self._pipeline = plan.pipeline.state_after(step)
        # If the latest dispatch will be repeated: the state before the dispatch, its number of steps, and its batches.
        self._before: tuple[Kept, int, Any] | None = None
        self._counts: list[int] = []
        self._keeps_next = False
        self._is_measured = self._checks.replay == "off"
        self._strikes: collections.Counter[str] = collections.Counter()
        self._suspected: bytes | None = None

    @property
    def step(self) -> int:
        """The last verified step."""
        return self._verified.step

    def call(self, steps: Any, step: int, count: int, state: TrainState, batches: Any) -> tuple[TrainState, Sums]:
        """Make `count` steps with the compiled function `steps`, and return the new state and the metric sums.

        Args:
          steps: compiled function `(state, batches) -> (state, sums)`.
          step: number of steps that the run has made before this call.
          count: number of steps to make.
          state: the state before the steps.
          batches: the batches of the steps, `[count, N, ...]`.
        """
        self._before = None
        if self._replays_last and (self._keeps_next or self._is_planned(step, count)):
            is_verified = step == self._verified.step
            kept = self._verified if is_verified else self._replayer.keep(step, state)
            self._before = (kept, count, None if self._replayer.random_access else batches)
        self._keeps_next = False
        self._counts.append(count)
        if not self._is_measured:
            self._is_measured = True
            self._replayer.measure(self._verified, count, batches)
        state, sums = steps(state, batches)
        return state, self._bounds.watch(sums)

    def is_due(self, step: int, count: int, *, stops: bool, at_once: bool) -> bool:
        """Return whether to verify now, after a dispatch of `count` steps.

        Args:
          step: number of steps made so far.
          count: number of steps in the latest dispatch.
          stops: whether the run will save the state now. A state must be verified before it is saved.
          at_once: whether there is too little time to repeat all steps since the last verification. In this case, the
            run makes one more dispatch, and repeats only this dispatch.
        """
        if self._is_planned(step - count, count) or self._before is not None:
            return True
        if not stops:
            return False
        if self._replays_last and (at_once or not self._replays_intervals) and step < self._plan.steps:
            self._keeps_next = True
            return False
        return True

    def verify(self, step: int, state: TrainState) -> Mismatch | None:
        """Verify the steps since the last verification. If all are right, mark `state` as the last verified state.

        Every process must call this method, and all processes get the same result.

        Returns:
          None if the steps are right, else a description of the error.
        """
        hashes = self._replayer.start_fingerprints(state)
        mismatch = self._find(state, hashes)
        if mismatch is None:
            self._bounds.accept()
            self._verified = self._replayer.keep(step, state, hashes)
            self._pipeline = self._plan.pipeline.state_after(step)
            self._suspected = None
            self._strikes.pop("", None)
        else:
            self._strikes.update(mismatch.devices or ("",))
            self._bounds.forget()
        self._counts, self._before = [], None
        return mismatch

    def row(self, mismatch: Mismatch, found_at: int) -> Row:
        """Return the row of `metrics.jsonl` that reports a mismatch, found after step `found_at`."""
        return {
            "split": VERIFY,
            "step": self.step,
            "found_at": found_at,
            "time": time.time(),
            "check": mismatch.check,
            "device": ", ".join(mismatch.devices) or None,
            "leaf": mismatch.leaves[0],
            "leaves": len(mismatch.leaves),
        }

    def go_back(self, mismatch: Mismatch) -> tuple[int, TrainState]:
        """Return the last verified step and its state, and set the input pipeline back to this step.

        Raises:
          CorruptDeviceError: if a device made errors three times, or if the last verified state was damaged in memory.
        """
        worst = max(mismatch.devices or ("",), key=lambda device: self._strikes[device])
        resume = "the run resumes from the last checkpoint, which is verified."
        if self._strikes[worst] >= STRIKES:
            which = worst or "an unknown device"
            raise CorruptDeviceError(
                f"{which} computed or stored wrong values {STRIKES} times, most recently of {mismatch.leaves[0]}. "
                f"Run the same command without this device; {resume}",
                elsewhere=worst != "" and worst not in map(str, jax.local_devices()),
            )
        state = self._replayer.restored(self._verified)
        if distributed.anywhere(state is None) or state is None:
            raise CorruptDeviceError(
                f"the verified state of step {self.step} was damaged in memory. Run the command again; {resume}"
            )
        self._plan.pipeline.restore(self.step, self._pipeline)
        _log.warning("%s; returning to step %d", mismatch, self.step)
        return self.step, state

    @property
    def _replays_intervals(self) -> bool:
        """Return whether all steps since the last verification can be repeated and compared."""
        return self._replayer.random_access and self._replayer.bound is None

    @property
    def _replays_last(self) -> bool:
        """Return whether a verification repeats only the latest dispatch.

        On a nondeterministic platform, more steps cannot be compared: rounding differences grow with each step.
        """
        return self._checks.replay == "last" or (self._checks.replay != "off" and self._replayer.bound is not None)

    def _is_planned(self, step: int, count: int) -> bool:
        """Return whether the configuration asks for a verification after the dispatch of `count` steps after `step`."""
        return step // self._every < (step + count) // self._every or self._plan.saves_after(step + count)

    def _find(self, state: TrainState, hashes: Callable[[], np.ndarray]) -> Mismatch | None:
        # The devices repeat the latest dispatch while the host examines the losses and norms.
        compare_last = self._start_last(state) if self._before is not None else None
        exceeded = self._bounds.exceeded() is not None
        found = hashes()
        unequal = self._unequal_replicas(found) if self._checks.replicas else np.zeros_like(found, bool)
        if _anywhere(unequal):
            return self._mismatch("replicas", state, unequal, *self._compared_interval(found))
        wrong, again = None, None
        if compare_last is not None:
            wrong, again = compare_last(found)
        elif self._checks.replay != "off":
            # The state before the latest dispatch was not kept: a callback has asked to stop the run.
            wrong, again = self._compared_interval(found)
        if wrong is not None and _anywhere(wrong):
            return self._mismatch("replay", state, unequal, wrong, again)
        # Each process examines its own copy of the metric sums.
        if not distributed.anywhere(exceeded):
            return None
        if self._before is not None or self._checks.replay == "off":
            wrong, again = self._compared_interval(found)
        if wrong is None:
            # The run goes back once. If the repeated steps give the same values again, these values are right.
            repeated, self._suspected = self._suspected == found.tobytes(), found.tobytes()
            is_right = all(distributed.gather(repeated))
        else:
            is_right = not _anywhere(wrong)
        return None if is_right else self._mismatch("bounds", state, unequal, wrong, again)

    def _unequal_replicas(self, found: np.ndarray) -> np.ndarray:
        """Return a mask `[devices, arrays]` of the arrays that differ from the array of most devices.

        If at most half of all devices agree on an array, the array counts as different on all devices.
        """
        rows = np.array([row for rows in distributed.gather(found.tolist()) for row in rows], np.uint32)
        wrong = np.zeros_like(found, bool)
        for leaf in np.flatnonzero(self._replicated & (rows != rows[0]).any(axis=0)):
            value, count = collections.Counter(rows[:, leaf].tolist()).most_common(1)[0]
            wrong[:, leaf] = (found[:, leaf] != value) | (2 * count <= len(rows))
        return wrong

    def _start_last(self, state: TrainState) -> Callable[[np.ndarray], tuple[np.ndarray, TrainState]]:
        """Start to repeat the latest dispatch, without waiting for the devices.

        Returns:
          A function from the hashes of `state` to a mask `[devices, arrays]` of the arrays that differ from the
          repetition, and the state after the repetition.
        """
        assert self._before is not None
        kept, count, batches = self._before
        replayer, bound = self._replayer, self._replayer.bound
        again = replayer.again(kept, [count], batches)
        if bound is None:
            hashes = replayer.start_fingerprints(again, replayer.parallel)
            return lambda found: (found != hashes(), again)

        def compare(found: np.ndarray) -> tuple[np.ndarray, TrainState]:
            differences = replayer.differences(state, again).values()
            return np.array([[value > bound for value in differences]] * len(found)), again

        return compare

    def _compared_interval(self, found: np.ndarray) -> tuple[np.ndarray, TrainState] | tuple[None, None]:
        """Repeat all steps since the last verification, and compare the result with the hashes `found`.

        Returns:
          A mask `[devices, arrays]` of the arrays that differ, and the state after the repetition. (None, None) if the
          steps cannot be repeated.
        """
        if not self._replays_intervals:
            return None, None
        again = self._replayer.again(self._verified, self._counts)
        return found != self._replayer.fingerprints(again, self._replayer.parallel), again

    def _mismatch(self, check: str, state: TrainState, unequal: np.ndarray, wrong: Any, again: Any) -> Mismatch:
        """Return a description of an error.

        Args:
          check: the check that has found the error.
          state: the wrong state.
          unequal: mask `[devices, arrays]` of the arrays that differ from the array of most devices.
          wrong: mask `[devices, arrays]` of the arrays that differ from the arrays after repeated steps, or None.
          again: the state after the repeated steps, or None.
        """
        devices = self._plan.parallel.devices
        local = [device for device in devices if device in self._plan.parallel.mesh.local_devices]
        places = [unequal] if wrong is None else [unequal, wrong]
        mine = [
            [[str(local[row]) for row in np.flatnonzero(place.any(axis=1))], self._named(place.any(axis=0))]
            for place in places
        ]
        of_places = [
            [_union(parts) for parts in zip(*told, strict=True)] for told in zip(*distributed.gather(mine), strict=True)
        ]
        some = (names for names, _ in of_places if 0 < len(names) < len(devices) or len(names) == len(devices) == 1)
        leaves = next((leaves for _, leaves in of_places if leaves), ("the loss",))
        if again is not None:
            # After one or two steps, an error has spread to all arrays: the largest difference shows its origin.
            differences = self._replayer.differences(state, again)
            leaves = tuple(sorted(leaves, key=lambda leaf: -differences.get(leaf, 0.0)))
        return Mismatch(check, leaves, next(some, ()))

    def _named(self, chosen: Any) -> list[str]:
        return [self._names[index] for index in np.flatnonzero(chosen)]


def _union(parts: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in parts for name in part))


def _anywhere(wrong: np.ndarray) -> bool:
    """Return whether the mask `wrong` has a True value in any process."""
    return distributed.anywhere(bool(wrong.any()))


def make_verifier(plan: Plan, step: int, state: TrainState) -> Verifier | None:
    """Return a new `Verifier(plan, step, state)`, or None if `plan.config.verify_every` is None."""
    return None if plan.config.verify_every is None else Verifier(plan, step, state)
