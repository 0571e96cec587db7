"""Find losses and norms that are far above their running median."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

HISTORY = 200
"""Number of latest verified steps over which the running median is computed."""

FEWEST = 10
"""Smallest number of values for a median. With fewer values, losses and norms are not compared."""

NORMS = ("gradient_norm", "update_norm")
"""Names of the norms that a compiled training step returns; see `jaxcnn.train.make_train_step`."""


class Bounds:
    """Compare the loss and the norms of each step with their median over earlier steps.

    Args:
      factor: largest allowed ratio of a value to the median. With 0, only infinite and NaN values are found.
    """

    def __init__(self, factor: float):
        self.factor = factor
        self._verified: dict[str, deque[float]] = {}
        self._pending: list[dict[str, jax.Array]] = []
        self._examined: dict[str, list[float]] = {}

    def watch(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Store the loss and the norms of a dispatch, `[steps]`, for `exceeded`. Return `sums` without the norms."""
        self._pending.append({name: sums[name] for name in ("loss", "examples", *NORMS) if name in sums})
        return {name: value for name, value in sums.items() if name not in NORMS}

    def exceeded(self) -> str | None:
        """Return the name of a loss or norm that is too large or not finite, or None if all are valid.

        Only values since the last verification are examined.
        """
        self._examined = self._values()
        for name, values in self._examined.items():
            if not all(map(math.isfinite, values)):
                return name
            known = [*self._verified.get(name, ()), *values]
            if self.factor and len(known) >= FEWEST and max(values, default=0.0) > self.factor * np.median(known):
                return name
        return None

    def accept(self) -> None:
        """Add the values that `exceeded` has examined to the running median."""
        for name, values in self._examined.items():
            self._verified.setdefault(name, deque(maxlen=HISTORY)).extend(values)
        self.forget()

    def forget(self) -> None:
        """Discard the values since the last verification."""
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
