"""Train networks: a pure training step, its distribution over devices, and the training loop."""

from jaxcnn.train.api import Result, fit
from jaxcnn.train.callbacks import Callback, RunView
from jaxcnn.train.config import Config, LookaheadConfig, OptimizerConfig, ScheduleConfig, Verification
from jaxcnn.train.devices.parallel import make_parallel
from jaxcnn.train.evaluation import (
    evaluate,
    evaluate_trained,
    evaluation_batches,
    open_test_set,
    trained_from_weights,
)
from jaxcnn.train.examples import across_devices, device_index, example_keys, mean_over_devices
from jaxcnn.train.gradient import BatchLoss, Gradient, accumulated, plain, scaled
from jaxcnn.train.inspection import Finding, check_run
from jaxcnn.train.learning_rate_finder import LearningRateFinderResult, find_learning_rate
from jaxcnn.train.losses import binary_cross_entropy, cross_entropy
from jaxcnn.train.many import InterruptedSweepError, Results, fit_many
from jaxcnn.train.metrics import METRICS, Metric, OneHot
from jaxcnn.train.mixing import make_mix
from jaxcnn.train.optim.optimizers import make_optimizer
from jaxcnn.train.optim.schedules import make_schedule
from jaxcnn.train.runtime.checkpoint import SaveError
from jaxcnn.train.runtime.integrity import DivergedError
from jaxcnn.train.runtime.signals import InterruptedRunError
from jaxcnn.train.runtime.trained import Trained, load_run
from jaxcnn.train.runtime.verification import CorruptDeviceError
from jaxcnn.train.state import TrainState, create_state, evaluation_variables
from jaxcnn.train.step import make_eval_step, make_train_step
from jaxcnn.train.task import Classification, Task

__all__ = [
    "METRICS",
    "BatchLoss",
    "Callback",
    "Classification",
    "Config",
    "CorruptDeviceError",
    "DivergedError",
    "Finding",
    "Gradient",
    "InterruptedRunError",
    "InterruptedSweepError",
    "LearningRateFinderResult",
    "LookaheadConfig",
    "Metric",
    "OneHot",
    "OptimizerConfig",
    "Result",
    "Results",
    "RunView",
    "SaveError",
    "ScheduleConfig",
    "Task",
    "TrainState",
    "Trained",
    "Verification",
    "accumulated",
    "across_devices",
    "binary_cross_entropy",
    "check_run",
    "create_state",
    "cross_entropy",
    "device_index",
    "evaluate",
    "evaluate_trained",
    "evaluation_batches",
    "evaluation_variables",
    "example_keys",
    "find_learning_rate",
    "fit",
    "fit_many",
    "load_run",
    "make_eval_step",
    "make_mix",
    "make_optimizer",
    "make_parallel",
    "make_schedule",
    "make_train_step",
    "mean_over_devices",
    "open_test_set",
    "plain",
    "scaled",
    "trained_from_weights",
]
