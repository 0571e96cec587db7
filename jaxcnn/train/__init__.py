"""Training: one pure step, distributed over devices, and the loop around it."""

from jaxcnn.train.api import Result, fit
from jaxcnn.train.config import Config, OptimizerConfig, ScheduleConfig
from jaxcnn.train.devices.parallel import make_parallel
from jaxcnn.train.evaluation import (
    evaluate_run,
    evaluate_trained,
    evaluation_batches,
    open_test_set,
    trained_from_weights,
)
from jaxcnn.train.learning_rate_finder import LearningRateFinderResult, find_learning_rate
from jaxcnn.train.losses import binary_cross_entropy, cross_entropy
from jaxcnn.train.optim.optimizers import make_optimizer
from jaxcnn.train.optim.schedules import make_schedule
from jaxcnn.train.prepare import make_prepare
from jaxcnn.train.runtime.checkpoint import SaveError
from jaxcnn.train.runtime.loop import DivergedError
from jaxcnn.train.runtime.signals import InterruptedRunError
from jaxcnn.train.runtime.trained import Trained, load_run
from jaxcnn.train.state import TrainState, create_state, evaluation_variables
from jaxcnn.train.step import make_eval_step, make_train_step

__all__ = [
    "Config",
    "DivergedError",
    "InterruptedRunError",
    "LearningRateFinderResult",
    "OptimizerConfig",
    "Result",
    "SaveError",
    "ScheduleConfig",
    "TrainState",
    "Trained",
    "binary_cross_entropy",
    "create_state",
    "cross_entropy",
    "evaluate_run",
    "evaluate_trained",
    "evaluation_batches",
    "evaluation_variables",
    "find_learning_rate",
    "fit",
    "load_run",
    "make_eval_step",
    "make_optimizer",
    "make_parallel",
    "make_prepare",
    "make_schedule",
    "make_train_step",
    "open_test_set",
    "trained_from_weights",
]
