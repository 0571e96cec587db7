"""Checkpoints: the state of a run on disk, written by Orbax while training continues, and verified when read."""

from jaxcnn.train.runtime.checkpoint._checkpoints import Checkpoints, to_host
from jaxcnn.train.runtime.checkpoint._description import RANDOM_NUMBER_OPTIONS
from jaxcnn.train.runtime.checkpoint._errors import DamagedError, SaveError
from jaxcnn.train.runtime.checkpoint._folders import DAMAGED

__all__ = ["DAMAGED", "RANDOM_NUMBER_OPTIONS", "Checkpoints", "DamagedError", "SaveError", "to_host"]
