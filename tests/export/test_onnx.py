"""A network exported as ONNX gives the network's own predictions in ONNX Runtime."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn.errors import RunError
from jaxcnn.export import export, onnx_model
from jaxcnn.models import create_model, list_models
from jaxcnn.train import load_run

# One model of each kind of block; the others are slow tests. Together they have every operation that a model needs.
FAST = {"lenet5_1998", "googlenet", "preact_resnet18", "resnet20_cifar", "densenet_bc100_k12"}

# Sides of the smallest images that these models take; all others take images of 32x32.
LEAST = {"alexnet": 63, "alexnet_two_tower": 67}
