"""Checkpoints: training states on disk. Orbax writes checkpoints while training continues. Checkpoints are verified."""

from jaxcnn.train.runtime.checkpoint._checkpoints import Checkpoints, to_host
from jaxcnn.train.runtime.checkpoint._description import RANDOM_NUMBER_OPTIONS
from jaxcnn.train.runtime.checkpoint._errors import DamagedError, SaveError
from jaxcnn.train.runtime.checkpoint._folders import DAMAGED

__all__ = ["DAMAGED", "RANDOM_NUMBER_OPTIONS", "Checkpoints", "DamagedError", "SaveError", "to_host"]
