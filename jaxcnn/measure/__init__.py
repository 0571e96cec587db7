"""Measure step time, throughput, memory and device utilization of models; each measurement is one row of a table.

>>> import jax
>>> timing = time_step(jax.jit(lambda x: x @ x), jax.numpy.ones((64, 64)), steps=5, min_window=1e-3)
>>> timing.median <= timing.p95
True
"""

from jaxcnn.measure._isolate import measure_isolated
from jaxcnn.measure.case import Case, grid
from jaxcnn.measure.compare import Comparison, compare
from jaxcnn.measure.probes.collectives import Collective, collectives
from jaxcnn.measure.probes.peaks import Peak, device_peak, measure_peak
from jaxcnn.measure.probes.timing import Timing, time_step, train_advance
from jaxcnn.measure.row import Row, measure_case
from jaxcnn.measure.scaling import add_scaling
from jaxcnn.measure.suite import benchmark, measure_cases

__all__ = [
    "Case",
    "Collective",
    "Comparison",
    "Peak",
    "Row",
    "Timing",
    "add_scaling",
    "benchmark",
    "collectives",
    "compare",
    "device_peak",
    "grid",
    "measure_case",
    "measure_cases",
    "measure_isolated",
    "measure_peak",
    "time_step",
    "train_advance",
]
