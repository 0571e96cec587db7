"""jaxcnn: a functional convolutional-network framework for JAX.

>>> import jax, jaxcnn
>>> model = jaxcnn.create_model("lenet5", num_classes=10)
>>> images = jax.numpy.zeros((1, 28, 28, 1))
>>> variables = model.init(jax.random.key(0), images, train=False)
>>> model.apply(variables, images, train=False).shape
(1, 10)
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxcnn.errors import UsageError
from jaxcnn.version import __version__

if TYPE_CHECKING:
    from jaxcnn import analysis, aot, data, layers, measure, models, startup, train, weights
    from jaxcnn.models import create_model, list_models

__all__ = [
    "UsageError",
    "__version__",
    "analysis",
    "aot",
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

_PACKAGES = (
    *("analysis", "aot", "data", "export", "kernels", "layers", "measure", "models", "predict", "startup", "train"),
    *("visualize", "weights"),
)


def __getattr__(name: str) -> Any:
    """Import a subpackage, such as `jaxcnn.layers`, at its first use.

    The console script must start before JAX is imported, so `import jaxcnn` must not import JAX.
    """
    if name in ("create_model", "list_models"):
        return getattr(importlib.import_module("jaxcnn.models"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"jaxcnn.{name}")
    raise AttributeError(f"module 'jaxcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
