"""Evaluate trained networks, and networks with published weights, on a test set."""

from jaxcnn.train.evaluation.batches import evaluation_batches
from jaxcnn.train.evaluation.evaluation import evaluate, evaluate_trained, open_test_set
from jaxcnn.train.evaluation.published import trained_from_weights

__all__ = ["evaluate", "evaluate_trained", "evaluation_batches", "open_test_set", "trained_from_weights"]
