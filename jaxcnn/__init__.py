"""jaxcnn: a functional convolutional-network framework for JAX.

>>> import jax, jaxcnn
>>> model = jaxcnn.create_model("lenet5", num_classes=10)
>>> images = jax.numpy.zeros((1, 28, 28, 1))
>>> variables = model.init(jax.random.key(0), images, train=False)
>>> model.apply(variables, images, train=False).shape
(1, 10)
"""

from jaxcnn import analysis, data, layers, measure, models, startup, train, weights
from jaxcnn.errors import UsageError
from jaxcnn.models import create_model, list_models
from jaxcnn.version import __version__

__all__ = [
    "UsageError",
    "__version__",
    "analysis",
    "create_model",
    "data",
    "layers",
    "list_models",
    "measure",
    "models",
    "startup",
    "train",
    "weights",
]
