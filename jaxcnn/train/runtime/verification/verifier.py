"""Verify the steps since the last verification, and go back if a device has computed or stored them wrong."""

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
"""Number of mismatches of one device after which a run stops."""

_log = logging.getLogger(__name__)


class CorruptDeviceError(RunError):
    """A device has repeatedly computed or stored wrong values. Checkpoints are verified and are kept.

    Attributes:
      elsewhere: whether the device is known to belong to another process, so that this one may go on without it.

    >>> CorruptDeviceError.exit_status  # tells a scheduler to exclude the machine
    71
    """

    exit_status = BAD_DEVICE

    def __init__(self, message: str, *, elsewhere: bool = False):
        super().__init__(message)
        self.elsewhere = elsewhere


@dataclass(frozen=True)
class Mismatch:
    """Steps whose results are wrong.

    Attributes:
      check: the check that found the error: "replicas", "replay" or "bounds".
      leaves: names of the arrays that are wrong, such as "params/Conv_0/kernel", the most different one first.
      devices: names of the devices that have wrong values, if others have right ones; else ().
    """

    check: str
    leaves: tuple[str, ...]
    devices: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {len(self.leaves) - 1} more arrays" if len(self.leaves) > 1 else ""
        where = " and ".join(self.devices) or "an unknown device"
        return f"silent data corruption on {where}: {next(iter(self.leaves))}{more}, found by {self.check}"


class Verifier:
    """Keeps the last verified state of a run, and verifies the steps made since then.

    Args:
      plan: the run's parts, whose configuration has `verify_every`.
      step: steps made before.
      state: the state to start from, which counts as verified.
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
        # The state before the latest call, and that call's batches, if it is to be repeated.
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
        """Make `count` steps after `step`, and return the state and the sums, as the compiled `steps` do."""
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
        """Return whether to verify now, after a call of `count` steps up to `step`.

        Args:
          step: steps made so far.
          count: steps of the latest call.
          stops: whether the state is needed, in order to save it.
          at_once: whether there is no time to make an interval again. The next call is then made and verified.
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
        """Verify the steps since the last verification. If they are right, `state` is the verified state from now on.

        Every process must call it. All return the same.
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
        """Return the row of `metrics.jsonl` on a mismatch."""
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
        """Return the last verified step and its state, and let the batches continue there.

        Raises:
          CorruptDeviceError: if a device was wrong three times, or if the last verified state was damaged.
        """
        worst = max(mismatch.devices or ("",), key=lambda device: self._strikes[device])
        resume = "it resumes from the last checkpoint, which is verified."
        if self._strikes[worst] >= STRIKES:
            which = worst or "a device (which one cannot be told)"
            raise CorruptDeviceError(
                f"{which} was wrong {STRIKES} times, last at {mismatch.leaves[0]}. "
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
        """Return whether the steps since the last verification can be repeated."""
        return self._replayer.random_access and self._replayer.bound is None

    @property
    def _replays_last(self) -> bool:
        """Return whether the latest call is repeated. Rounding differences grow over an interval."""
        return self._checks.replay == "last" or (self._checks.replay != "off" and self._replayer.bound is not None)

    def _is_planned(self, step: int, count: int) -> bool:
        """Return whether a verification follows the call of `count` steps after `step`, whatever happens."""
        return step // self._every < (step + count) // self._every or self._plan.saves_after(step + count)

    def _find(self, state: TrainState, hashes: Callable[[], np.ndarray]) -> Mismatch | None:
        # The devices make the latest call again while the host examines the losses and norms.
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
            # Without a state before the latest call, a callback has asked to stop.
            wrong, again = self._compared_interval(found)
        if wrong is not None and _anywhere(wrong):
            return self._mismatch("replay", state, unequal, wrong, again)
        # Each process looks at its own copy of the sums.
        if not distributed.anywhere(exceeded):
            return None
        if self._before is not None or self._checks.replay == "off":
            wrong, again = self._compared_interval(found)
        if wrong is None:
            # Steps that give the same values twice are right.
            repeated, self._suspected = self._suspected == found.tobytes(), found.tobytes()
            is_right = all(distributed.gather(repeated))
        else:
            is_right = not _anywhere(wrong)
        return None if is_right else self._mismatch("bounds", state, unequal, wrong, again)

    def _unequal_replicas(self, found: np.ndarray) -> np.ndarray:
        """Return where a device's array differs from that of most devices, `[devices, arrays]`.

        All devices count as different where no value is that of most.
        """
        rows = np.array([row for rows in distributed.gather(found.tolist()) for row in rows], np.uint32)
        wrong = np.zeros_like(found, bool)
        for leaf in np.flatnonzero(self._replicated & (rows != rows[0]).any(axis=0)):
            value, count = collections.Counter(rows[:, leaf].tolist()).most_common(1)[0]
            wrong[:, leaf] = (found[:, leaf] != value) | (2 * count <= len(rows))
        return wrong

    def _start_last(self, state: TrainState) -> Callable[[np.ndarray], tuple[np.ndarray, TrainState]]:
        """Start to make the latest call again, without waiting for the devices.

        Return a function of the state's hashes, which returns where the state differs, `[devices, arrays]`, and the
        state again.
        """
        assert self._before is not None
        kept, count, batches = self._before
        replayer, bound = self._replayer, self._replayer.bound
        again = replayer.again(kept, [count], batches)
        hashes = replayer.start_fingerprints(again, replayer.parallel)

        def compare(found: np.ndarray) -> tuple[np.ndarray, TrainState]:
            if bound is None:
                return found != hashes(), again
            differences = replayer.differences(state, again).values()
            return np.array([[value > bound for value in differences]] * len(found)), again

        return compare

    def _compared_interval(self, found: np.ndarray) -> tuple[np.ndarray, TrainState] | tuple[None, None]:
        """Make the steps since the last verification again, and return the same, or None if this cannot be done."""
        if not self._replays_intervals:
            return None, None
        again = self._replayer.again(self._verified, self._counts)
        return found != self._replayer.fingerprints(again, self._replayer.parallel), again

    def _mismatch(self, check: str, state: TrainState, unequal: np.ndarray, wrong: Any, again: Any) -> Mismatch:
        """Return what is known of a mismatch.

        Args:
          check: what has found it.
          state: the state.
          unequal: where the devices' copies differ from most, `[devices, arrays]`.
          wrong: where they differ from those of repeated steps, or None.
          again: the state after these steps, or None.
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
            # An error spreads to all arrays within a step or two.
            differences = self._replayer.differences(state, again)
            leaves = tuple(sorted(leaves, key=lambda leaf: -differences.get(leaf, 0.0)))
        return Mismatch(check, leaves, next(some, ()))

    def _named(self, chosen: Any) -> list[str]:
        return [self._names[index] for index in np.flatnonzero(chosen)]


def _union(parts: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in parts for name in part))


def _anywhere(wrong: np.ndarray) -> bool:
    """Return whether anything is wrong in any process."""
    return distributed.anywhere(bool(wrong.any()))


def make_verifier(plan: Plan, step: int, state: TrainState) -> Verifier | None:
    """Return the verifier of a run, or None if its configuration has none. Arguments as for `Verifier`."""
    return None if plan.config.verify_every is None else Verifier(plan, step, state)
