"""Find the arrays of a model inside a larger network."""

from collections.abc import Mapping

import flax.linen as nn

from jaxcnn.weights._locations import module_of
from jaxcnn.weights._stored import Stored
from jaxcnn.weights.conversion import template
from jaxcnn.weights.names import HEADS


def without_prefix(
    stored: Mapping[str, Stored], model: nn.Module, image_shape: tuple[int, ...]
) -> tuple[Mapping[str, Stored], str | None]:
    """Return the arrays of a model that is a module of a larger network, and the path of this module.

    For example, the network of a contrastive task stores the model's "params/C1/kernel" as "params/model/C1/kernel".
    The arrays are returned by their names in the model. The result does not contain the model's
    classifiers, because their outputs may not be classes in the larger network.

    Args:
      stored: arrays by their names in jaxcnn.
      model: the model to find in the larger network.
      image_shape: shape `(H, W, C)` of the model's images.

    Returns:
      The arrays and the path, if exactly one module of the larger network has the model's array names, and `stored`
      does not also contain these names without a path. In all other cases, the function returns `stored` and None.

    >>> import numpy as np
    >>> from jaxcnn.models import create_model
    >>> model = create_model("lenet5")
    >>> shapes = template(model, (28, 28, 1))
    >>> names = [name.replace("params/", "params/encoder/") for name in shapes]
    >>> stored = {name: Stored(x.shape, x.dtype, lambda: np.zeros(1)) for name, x in zip(names, shapes.values())}
    >>> without_prefix(stored, model, (28, 28, 1))[1]
    'encoder'
    """
    names = {name for name in template(model, image_shape) if module_of(name) not in HEADS}
    if not names or not names.isdisjoint(stored):
        return stored, None
    collection, _, rest = min(names).partition("/")
    start, end = f"{collection}/", f"/{rest}"
    prefixes = [name[len(start) : -len(end)] for name in stored if name.startswith(start) and name.endswith(end)]
    fitting = {}
    for prefix in prefixes:
        inside = _inside(stored, prefix)
        if inside.keys() == names:
            fitting[prefix] = inside
    if len(fitting) != 1:
        return stored, None
    ((prefix, arrays),) = fitting.items()
    return arrays, prefix


def _inside(stored: Mapping[str, Stored], prefix: str) -> dict[str, Stored]:
    """Return the arrays of the module at the path `prefix`, by their names in this module, without classifiers."""
    arrays = {}
    for name, array in stored.items():
        collection, _, path = name.partition("/")
        if path.startswith(f"{prefix}/"):
            arrays[f"{collection}/{path.removeprefix(f'{prefix}/')}"] = array
    return {name: array for name, array in arrays.items() if module_of(name) not in HEADS}
