"""Load a network with the weights of a file, such as a file that torchvision or timm publishes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcnn import weights
from jaxcnn.data.decode import CROP_FRACTION
from jaxcnn.errors import UsageError
from jaxcnn.models import create_model
from jaxcnn.train.config import Config
from jaxcnn.train.runtime.preprocessing import Preprocessing
from jaxcnn.train.runtime.trained import Trained


def trained_from_weights(
    model_name: str,
    source: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Trained:
    """Return a network with the weights of a file, and with the preprocessing that the weights were trained with.

    Args:
      model_name: name of a registered model; see `jaxcnn.list_models()`.
      source: path of a weight file, or `hf:OWNER/NAME`; see `jaxcnn.weights.load`.
      class_names: one name per logit. Default: "0", "1", ...
      mean: mean of each channel for the normalization, from 0 to 1. Default: the mean that the file records.
      std: standard deviation of each channel for the normalization, from 0 to 1. Default: the value that the file
        records.

    Raises:
      UsageError: if the model is unknown, if the file cannot be read or does not fit the model, if the number of class
        names differs from the number of logits, or if the file does not record the normalization and `mean` or `std` is
        missing.

    >>> import tempfile, jax, jaxcnn
    >>> import numpy as np
    >>> images = np.zeros((1, 28, 28, 1), np.float32)
    >>> shapes = jax.eval_shape(lambda: jaxcnn.create_model("lenet5").init(jax.random.key(0), images, train=False))
    >>> variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/lenet5.safetensors"
    ...     _ = jaxcnn.weights.save(path, "lenet5", variables, image_shape=(28, 28, 1))
    ...     trained = trained_from_weights("lenet5", path, mean=(0.29,), std=(0.35,))
    >>> trained.step, trained.num_classes
    (0, 10)
    """
    conversion = weights.convert(model_name, source)
    names = tuple(map(str, range(conversion.num_classes))) if class_names is None else tuple(class_names)
    if len(names) != conversion.num_classes:
        raise UsageError(
            f"{source} has {conversion.num_classes} classes, but {len(names)} class names are given. "
            f"Give a file with {conversion.num_classes} names with --classes."
        )
    known = conversion.preprocessing
    mean = mean or (known.mean if known else None)
    std = std or (known.std if known else None)
    if mean is None or std is None:
        raise UsageError(f"{source} does not record how images are normalized. Give --mean and --std.")
    *size, channels = conversion.image_shape
    height, width = known.image_size if known else size
    resize: Any = known.resize if known else "shorter"
    background: Any = known.background if known else "white"
    preprocessing = Preprocessing(
        image_shape=(height, width, channels),
        mean=mean,
        std=std,
        class_names=names,
        resize=resize,
        crop_fraction=(known.crop_fraction if known else None) or CROP_FRACTION,
        background=background,
    )
    model = create_model(model_name, conversion.num_classes)
    trained = Trained(Config(model=model_name), model, conversion.variables, 0, preprocessing)
    trained.check()
    return trained
