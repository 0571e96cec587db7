"""Losses and norms that are far from their running median."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

HISTORY = 200
"""Number of latest verified steps whose median a value is compared with."""

FEWEST = 10
"""Number of values below which nothing is compared."""

NORMS = ("gradient_norm", "update_norm")
"""Names of norms in the sums of a step; see `jaxcnn.train.make_train_step`."""


class Bounds:
    """Compares each step's loss and norms with the median of the steps before.

    Args:
      factor: largest ratio to the median; 0 only finds values that are not finite.
    """

    def __init__(self, factor: float):
        self.factor = factor
        self._verified: dict[str, deque[float]] = {}
        self._pending: list[dict[str, jax.Array]] = []
        self._examined: dict[str, list[float]] = {}

    def watch(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Take note of the sums `[steps]` of a call, and return them without the norms."""
        self._pending.append({name: sums[name] for name in ("loss", "examples", *NORMS) if name in sums})
        return {name: value for name, value in sums.items() if name not in NORMS}

    def exceeded(self) -> str | None:
        """Return the name of a value since the last verification that is out of bounds or not finite, or None."""
        self._examined = self._values()
        for name, values in self._examined.items():
            if not all(map(math.isfinite, values)):
                return name
            known = [*self._verified.get(name, ()), *values]
            if self.factor and len(known) >= FEWEST and max(values, default=0.0) > self.factor * np.median(known):
                return name
        return None

    def accept(self) -> None:
        """Count the values that `exceeded` has examined as verified."""
        for name, values in self._examined.items():
            self._verified.setdefault(name, deque(maxlen=HISTORY)).extend(values)
        self.forget()

    def forget(self) -> None:
        """Drop the values since the last verification."""
        self._pending.clear()
        self._examined = {}

    def _values(self) -> dict[str, list[float]]:
        if not self._pending:
            return {}
        # `jax.device_get` takes five times as long for many small arrays.
        together = {name: np.concatenate([np.asarray(x[name]) for x in self._pending]) for name in self._pending[0]}
        with np.errstate(all="ignore"):
            together["loss"] = together["loss"] / together.pop("examples")
        return {name: values.tolist() for name, values in together.items()}
