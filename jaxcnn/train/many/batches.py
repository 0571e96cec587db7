"""Make the batches of many networks. Each network gets the batches that it would get if trained alone."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxcnn.data import Dataset
from jaxcnn.data.alternating import mirror
from jaxcnn.train.many.programs import Programs
from jaxcnn.train.runtime.plan import Plan


class Batches:
    """Make stacked training batches for all networks. Networks share one copy of the decoded images.

    Args:
      plans: one plan for each network.
      whole: the dataset, including validation images that networks hold out of the training set.
      programs: object with the compiled programs, which also copies batches to the devices.

    Attributes:
      data: all training examples in device memory if `gathers` is True, else an empty dict.
      gathers: whether the programs gather batches from `data` on the devices.
    """

    def __init__(self, plans: Sequence[Plan], whole: Dataset, programs: Programs):
        self._plans, self._whole, self._programs = plans, whole, programs
        self._residence = plans[0].pipeline.residence
        self.gathers = self._residence == "device" and not plans[0].pipeline.mirrors
        self.data: Any = programs.replicate(self._decoded()) if self.gathers else {}

    def __call__(self, first_step: int, counts: Iterable[int]) -> Iterator[Any]:
        """Yield stacked batches on the devices, for one dispatch after another.

        Args:
          first_step: number of steps made before the first dispatch.
          counts: number of steps in each dispatch.
        """
        if self._residence == "disk":
            return self._from_disk(first_step, counts)
        return self._from_memory(first_step, counts)

    def _from_memory(self, first_step: int, counts: Iterable[int]) -> Iterator[Any]:
        step = first_step
        for count in counts:
            indices = np.stack([[self._indices(plan, s) for plan in self._plans] for s in range(step, step + count)])
            kept = indices.astype(np.int32) if self.gathers else self._gathered(indices)
            if self._plans[0].pipeline.mirrors:
                steps = range(step, step + count)
                which = np.stack([[plan.pipeline.mirrored(s) for plan in self._plans] for s in steps])
                kept = mirror(kept, which)
            yield self._programs.place(kept, axis=1)
            step += count

    def _from_disk(self, first_step: int, counts: Iterable[int]) -> Iterator[Any]:
        ours, *others = itertools.tee(counts, 1 + len(self._plans))
        pipelines = [
            plan.pipeline.batches(first_step, counts=of_network)
            for plan, of_network in zip(self._plans, others, strict=True)
        ]
        for _ in ours:
            of_networks = [next(batches) for batches in pipelines]
            steps = [jax.tree.map(lambda *x: np.stack(x), *batch) for batch in zip(*of_networks, strict=True)]
            yield self._programs.place(jax.tree.map(lambda *x: np.stack(x), *steps), axis=1)

    def _gathered(self, indices: np.ndarray) -> Any:
        return jax.tree.map(lambda x: x[indices], self._decoded())

    def _indices(self, plan: Plan, step: int) -> Any:
        """Return the indices of the examples of a step in the training set of `whole`."""
        return plan.dataset.stored_at("train", plan.pipeline.indices(step).tolist())[1]

    def _decoded(self) -> Any:
        return self._whole.decoded("train", self._plans[0].preprocessing.geometry)
