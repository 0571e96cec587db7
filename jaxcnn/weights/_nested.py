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
    """Return the arrays of a model that is one module of a larger network, by the model's names, and its path there.

    For example, the network of a contrastive task stores "params/model/C1/kernel" for the model's "params/C1/kernel".
    Its classifiers are left out: within the larger network, their outputs may be other than classes.

    Args:
      stored: arrays by our names.
      model: the model to look for.
      image_shape: `(H, W, C)` of its images.

    Returns:
      `stored` and None, unless the names of exactly one module are those of the model, none missing and none more, and
      `stored` does not have them without the path.

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
    """Return the arrays of the module at a path, by their names in this module, without classifiers."""
    arrays = {}
    for name, array in stored.items():
        collection, _, path = name.partition("/")
        if path.startswith(f"{prefix}/"):
            arrays[f"{collection}/{path.removeprefix(f'{prefix}/')}"] = array
    return {name: array for name, array in arrays.items() if module_of(name) not in HEADS}
