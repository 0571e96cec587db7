"""Grad-CAM: the regions of an image that support a class.

Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra: *Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization*, 2017, equations 1 and 2.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxcnn.array_types import Float, Num
from jaxcnn.errors import UsageError
from jaxcnn.train import Trained
from jaxcnn.visualize._panels import literal, show
from jaxcnn.visualize.layers import check_layer, last_layer, logits_and_output


def grad_cam(
    trained: Trained, image: Num[np.ndarray, "h w c"], label: int, layer: str
) -> Float[np.ndarray, "rows columns"]:
    """Return how strongly each position of a layer's feature maps supports a class: `[H', W']`, with values >= 0.

    For the layer's feature maps `A_k` and the logit `y` of the class,

        `alpha_k = mean over positions of dy / dA_k`,  `L = ReLU(sum_k alpha_k A_k)`

    Args:
      trained: a trained network.
      image: the image, as a uint8 array `[H, W, C]`.
      label: index of the class.
      layer: path of a module whose output is feature maps.

    Raises:
      UsageError: the layer or the class does not exist.
    """
    preprocessing = trained.preprocessing
    if not 0 <= label < len(preprocessing.class_names):
        raise UsageError(f"unknown class: {label}. Use an index from 0 to {len(preprocessing.class_names) - 1}.")
    check_layer(trained.model, trained.variables, preprocessing.image_shape, layer)
    # Test-time augmentation also passes the mirror image, whose feature maps would be mixed in.
    alone = dataclasses.replace(trained, config=dataclasses.replace(trained.config, tta="none"))
    images = jnp.asarray(image)[None]
    _, maps = logits_and_output(lambda: alone.logits(images), layer)

    def logit(offset: jax.Array) -> jax.Array:
        logits, _ = logits_and_output(lambda: alone.logits(images), layer, offset)
        return logits[0, label]

    alpha = jax.grad(logit)(jnp.zeros_like(maps)).mean(axis=(1, 2))  # [1, K]
    return np.asarray(jax.nn.relu(jnp.einsum("nhwk,nk->hw", maps, alpha)))


def grad_cam_figure(
    trained: Trained, image: Num[np.ndarray, "h w c"], label: int | None = None, layer: str | None = None
) -> Figure:
    """Return a figure of an image and of the regions that support a class.

    Args:
      trained: a trained network.
      image: the image, as a uint8 array `[H, W, C]`.
      label: index of the class. Default: the most probable class.
      layer: path of a module. Default: the last module whose output is feature maps.

    Raises:
      UsageError: the layer or the class does not exist.
    """
    preprocessing = trained.preprocessing
    probabilities = trained.predict(image[None])[0]
    label = int(probabilities.argmax()) if label is None else label
    layer = layer or last_layer(trained.model, trained.variables, preprocessing.image_shape)
    heat = grad_cam(trained, image, label, layer)
    height, width = image.shape[:2]
    smooth = np.asarray(jax.image.resize(heat, (height, width), "bilinear"))
    figure = Figure(figsize=(7.5, 3.6), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    show(left, image)
    left.set(title="image", xlabel="column (pixels)", ylabel="row (pixels)")
    gray = image.mean(-1)
    right.imshow(gray, cmap="gray", vmin=0, vmax=255)
    picture = right.imshow(smooth, cmap="jet", alpha=0.5, vmin=0, vmax=max(float(smooth.max()), 1e-12))
    right.set(title=f"at {layer}", xlabel="column (pixels)", ylabel="row (pixels)")
    figure.colorbar(picture, ax=right, label="support for the class")
    name = literal(preprocessing.class_names[label])
    figure.suptitle(f"Grad-CAM for {name} (probability {probabilities[label]:.1%})")
    return figure
