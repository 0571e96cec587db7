"""Repeat training steps, on the same devices or on other devices, to verify them."""

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
"""On a nondeterministic platform, tolerate this factor times the difference that `Replayer.measure` has found."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A copy of a training state in device memory, from which steps can be repeated.

    Attributes:
      step: number of steps made so far.
      state: the copy of the state.
      fingerprints: function that returns the hashes of the state, `[devices, arrays]`. None if the run cannot go back
        to this state.
    """

    step: int
    state: TrainState
    fingerprints: Callable[[], np.ndarray] | None = None


class Replayer:
    """Keep copies of training states, and repeat training steps from these states.

    Args:
      plan: model, data, optimizer and other parts of the run.
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        self.parallel = plan.parallel
        """The devices on which steps are repeated."""
        self._fingerprints: dict[Parallel, Any] = {}
        shardings = plan.parallel.state_sharding(plan.template)
        # Each device copies its own memory, so that differences between devices are preserved.
        self._copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state), out_shardings=shardings)
        self.bound: float | None = None
        """Largest tolerated relative difference between a step and its repetition; None if steps are bitwise equal."""

    @property
    def random_access(self) -> bool:
        """Return whether any step can be repeated. If False, only the latest dispatch can be repeated."""
        return self._plan.dataset.random_access

    def keep(self, step: int, state: TrainState, fingerprints: Callable[[], np.ndarray] | None = None) -> Kept:
        """Start to copy a state. Do not wait for the devices. For the arguments, see `Kept`."""
        return Kept(step, self._copy(state), fingerprints)

    def fingerprints(self, state: TrainState, parallel: Parallel | None = None) -> np.ndarray:
        """Return the hashes of a state, `[devices, arrays]`; see `compile_fingerprints`.

        Args:
          state: the state.
          parallel: the devices on which the state is stored. Default: the devices of the run.
        """
        return self.start_fingerprints(state, parallel)()

    def start_fingerprints(self, state: TrainState, parallel: Parallel | None = None) -> Callable[[], np.ndarray]:
        """Start to compute the hashes that `fingerprints` returns. Return a function that waits for the hashes."""
        parallel = parallel or self._plan.parallel
        if parallel not in self._fingerprints:
            self._fingerprints[parallel] = compile_fingerprints(parallel, self._plan.template)
        return self._fingerprints[parallel](state)

    def restored(self, kept: Kept) -> TrainState | None:
        """Return a copy of a kept state, or None if the kept state has been damaged in memory."""
        assert kept.fingerprints is not None
        state = self._copy(kept.state)
        return state if np.array_equal(self.fingerprints(state), kept.fingerprints()) else None

    def again(self, kept: Kept, counts: Sequence[int], batches: Any = None, parallel: Parallel | None = None) -> Any:
        """Repeat dispatches of the training step, and return the state after the last dispatch.

        Args:
          kept: the state before the first dispatch.
          counts: number of steps of each dispatch.
          batches: batches of a single dispatch, for datasets without random access, which cannot read batches again.
          parallel: the devices on which to repeat the steps. Default: `self.parallel`.
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
        """Find out whether repeated steps are bitwise equal, and choose the devices on which to repeat steps.

        Set `bound` if repeated steps differ. Set `parallel` to other devices if steps are bitwise equal there too.
        Every process must call this method, and all processes get the same result.
        """
        plan = self._plan
        states = [self.again(kept, [count], batches) for _ in range(2)]
        found = [self.fingerprints(state) for state in states]
        if distributed.anywhere(not np.array_equal(found[0], found[1])):
            # A third repetition shows whether a device made an error or the platform is nondeterministic.
            states.append(self.again(kept, [count], batches))
            found.append(self.fingerprints(states[-1]))
            same = [i for i in (0, 1) if not distributed.anywhere(not np.array_equal(found[i], found[2]))]
            if not same:
                pairs = ((states[0], states[1]), (states[1], states[2]), (states[0], states[2]))
                here = [max(self.differences(*pair).values()) for pair in pairs]
                measured = max(max(there) for there in distributed.gather(here))
                self.bound = TOLERATED * measured
                _log.warning(
                    "repeated steps are not bitwise equal on this platform: arrays differ by up to %.1e of their "
                    "largest value. Verification tolerates %.1e. On GPUs, set "
                    "XLA_FLAGS=--xla_gpu_deterministic_ops=true for bitwise equal steps",
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
            _log.warning(
                "steps are not bitwise equal on other devices; verification repeats the steps on the same device"
            )

    def differences(self, first: TrainState, second: TrainState) -> dict[str, float]:
        """Return the largest difference in each array of two states, relative to the largest value of the array."""
        fetch = self._plan.parallel.fetch_state
        pairs = zip(named_leaves(fetch(first)).items(), named_leaves(fetch(second)).values(), strict=True)
        return {name: _difference(a, b) for (name, a), b in pairs}


def rotated(parallel: Parallel) -> Parallel | None:
    """Return a `Parallel` in which each device computes the shard of the next device.

    Return None for one device, and in a multi-process run, whose processes cannot exchange shards of a state.
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
