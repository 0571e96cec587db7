"""Train many networks at once: `fit_many`, its results, and compiled programs that train several networks together."""

from jaxcnn.train.many.results import NetworkResult, Results, Setting, Statistic
from jaxcnn.train.many.sweep import fit_many
from jaxcnn.train.many.ways import InterruptedSweepError

__all__ = ["InterruptedSweepError", "NetworkResult", "Results", "Setting", "Statistic", "fit_many"]
