"""Make steps again, on the same devices or on others."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.train.devices import distributed
from jaxcnn.train.devices.fingerprints import compile_fingerprints
from jaxcnn.train.devices.parallel import Parallel
from jaxcnn.train.devices.sharding import by_rows
from jaxcnn.train.runtime.integrity import named_leaves
from jaxcnn.train.runtime.plan import Plan
from jaxcnn.train.state import TrainState

TOLERATED = 10.0
"""Largest difference of two equal steps on a platform that is not deterministic, relative to the one at the start."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A state in the memory of the devices from which steps can be repeated.

    Attributes:
      step: steps made so far.
      state: a copy of the state.
      fingerprints: returns its hashes, `[devices, arrays]`, if the run may go back to it.
    """

    step: int
    state: TrainState
    fingerprints: Callable[[], np.ndarray] | None = None


class Replayer:
    """Keeps copies of states, and makes steps again.

    Args:
      plan: the run's parts.
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        self.parallel = plan.parallel
        """The devices on which steps are repeated."""
        self._fingerprints: dict[Parallel, Any] = {}
        shardings = plan.parallel.state_sharding(plan.template)
        # Each device copies its own memory: a difference between devices stays as it is.
        self._copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state), out_shardings=shardings)
        self.bound: float | None = None
        """Largest relative difference of two equal steps. None: all bits are equal."""

    @property
    def random_access(self) -> bool:
        """Return whether all steps can be repeated, and not only those whose batches are in memory."""
        return self._plan.dataset.random_access

    def keep(self, step: int, state: TrainState, fingerprints: Callable[[], np.ndarray] | None = None) -> Kept:
        """Return a copy of a state, without waiting for the devices. For the arguments, see `Kept`."""
        return Kept(step, self._copy(state), fingerprints)

    def fingerprints(self, state: TrainState, parallel: Parallel | None = None) -> np.ndarray:
        """Return the hashes of a state on some devices, by default those of the run; see `compile_fingerprints`."""
        return self.start_fingerprints(state, parallel)()

    def start_fingerprints(self, state: TrainState, parallel: Parallel | None = None) -> Callable[[], np.ndarray]:
        """Start to compute the same hashes. Return a function that waits for them and returns them."""
        parallel = parallel or self._plan.parallel
        if parallel not in self._fingerprints:
            self._fingerprints[parallel] = compile_fingerprints(parallel, self._plan.template)
        return self._fingerprints[parallel](state)

    def restored(self, kept: Kept) -> TrainState | None:
        """Return a copy of a kept state, or None if it has been damaged since it was kept."""
        assert kept.fingerprints is not None
        state = self._copy(kept.state)
        return state if np.array_equal(self.fingerprints(state), kept.fingerprints()) else None

    def again(self, kept: Kept, counts: Sequence[int], batches: Any = None, parallel: Parallel | None = None) -> Any:
        """Make calls of the step again, and return the state after them.

        Args:
          kept: the state before.
          counts: number of steps of each call.
          batches: those of the only call. They are used if they cannot be read again.
          parallel: where to make them. Default: `self.parallel`.
        """
        plan, parallel = self._plan, parallel or self.parallel
        state = self._copy(kept.state)
        if parallel != plan.parallel:
            state = jax.device_put(state, parallel.state_sharding(state))
        if plan.dataset.random_access:
            waited = plan.pipeline.waited
            made = plan.pipeline.batches(kept.step, place=parallel.place_batches, counts=iter(counts))
        else:
            made, waited = [jax.device_put(batches, by_rows(parallel.mesh, axis=1))], plan.pipeline.waited
        other = None if parallel == plan.parallel else parallel
        for count, batch in zip(counts, made, strict=True):
            state, _ = plan.compile_train_steps(count, other)(state, batch)
        plan.pipeline.waited = waited
        return state

    def measure(self, kept: Kept, count: int, batches: Any) -> None:
        """Find out whether equal steps have equal bits, here and on other devices, and where to make steps again.

        Every process must call it. All come to the same.
        """
        plan = self._plan
        states = [self.again(kept, [count], batches) for _ in range(2)]
        found = [self.fingerprints(state) for state in states]
        if distributed.anywhere(not np.array_equal(found[0], found[1])):
            # A third one tells an error of a device from a platform that is not deterministic.
            states.append(self.again(kept, [count], batches))
            found.append(self.fingerprints(states[-1]))
            same = [i for i in (0, 1) if not distributed.anywhere(not np.array_equal(found[i], found[2]))]
            if not same:
                pairs = ((states[0], states[1]), (states[1], states[2]), (states[0], states[2]))
                here = [max(self.differences(*pair).values()) for pair in pairs]
                measured = max(max(there) for there in distributed.gather(here))
                self.bound = TOLERATED * measured
                _log.warning(
                    "equal steps differ on this platform by up to %.1e of the largest value of an array; verification "
                    "tolerates %.1e. GPUs are deterministic with XLA_FLAGS=--xla_gpu_deterministic_ops=true",
                    *(measured, self.bound),
                )
                return
            found[0] = found[2]
        others = rotated(plan.parallel)
        if others is None:
            return
        elsewhere = self.fingerprints(self.again(kept, [count], batches, others), others)
        if np.array_equal(elsewhere, found[0]):
            self.parallel = others
        else:
            _log.warning("steps on other devices have other bits here; verification makes them again on the same ones")

    def differences(self, first: TrainState, second: TrainState) -> dict[str, float]:
        """Return the largest difference in each array of two states, relative to the largest value of the array."""
        fetch = self._plan.parallel.fetch_state
        pairs = zip(named_leaves(fetch(first)).items(), named_leaves(fetch(second)).values(), strict=True)
        return {name: _difference(a, b) for (name, a), b in pairs}


def rotated(parallel: Parallel) -> Parallel | None:
    """Return a strategy in which each device has the part of its neighbor, or None if there is no such device.

    The devices of several processes cannot exchange their parts of a state.
    """
    devices = parallel.devices
    if len(devices) == 1 or parallel.share[1] > 1:
        return None
    return dataclasses.replace(parallel, devices=(*devices[1:], devices[0]))


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    a, b = (np.asarray(x).astype(np.float64) for x in (first, second))
    if np.array_equal(a, b, equal_nan=True):
        return 0.0
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return np.inf
    return float(np.abs(a - b).max() / max(np.abs(a).max(), np.finfo(np.float32).tiny))
