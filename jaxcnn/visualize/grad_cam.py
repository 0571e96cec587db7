"""Grad-CAM: which places of an image speak for a class.

Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra: *Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization*, 2017, equations 1 and 2.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxcnn.errors import UsageError
from jaxcnn.train import Trained
from jaxcnn.visualize._panels import show
from jaxcnn.visualize.layers import check_layer, last_layer, tap


def grad_cam(trained: Trained, image: np.ndarray, label: int, layer: str) -> np.ndarray:
    """How much each place of a layer speaks for a class, `[H', W']`, not negative.

    With `A_k` the layer's feature maps and `y` the logit of the class,

        `alpha_k = mean over places of dy / dA_k`,  `L = ReLU(sum_k alpha_k A_k)`

    Args:
      trained: the network.
      image: uint8 `[H, W, C]`.
      label: number of the class.
      layer: path of a module that gives feature maps.

    Raises:
      UsageError: there is no such layer or class.
    """
    around = trained.preprocessing
    if not 0 <= label < len(around.class_names):
        raise UsageError(f"class {label} is not one of 0 to {len(around.class_names) - 1}")
    check_layer(trained.model, trained.variables, around.image_shape, layer)
    inputs = around.normalize(jnp.asarray(image)[None])
    maps = tap(trained.model, trained.variables, inputs, layer, None)[1]

    def logit(added: jax.Array) -> jax.Array:
        return tap(trained.model, trained.variables, inputs, layer, added)[0][0, label]

    alpha = jax.grad(logit)(jnp.zeros_like(maps)).mean(axis=(1, 2))  # [1, K]
    return np.asarray(jax.nn.relu(jnp.einsum("nhwk,nk->hw", maps, alpha)))


def grad_cam_figure(trained: Trained, image: np.ndarray, label: int | None = None, layer: str | None = None) -> Figure:
    """The image, and over it the places that speak for a class.

    Args:
      trained: the network.
      image: uint8 `[H, W, C]`.
      label: number of the class; the most probable one if not given.
      layer: path of a module; the last one that gives feature maps if not given.

    Raises:
      UsageError: there is no such layer or class.
    """
    around = trained.preprocessing
    probabilities = trained.predict(image[None])[0]
    label = int(probabilities.argmax()) if label is None else label
    layer = layer or last_layer(trained.model, trained.variables, around.image_shape)
    heat = grad_cam(trained, image, label, layer)
    height, width = image.shape[:2]
    smooth = np.asarray(jax.image.resize(heat, (height, width), "bilinear"))
    figure = Figure(figsize=(7.5, 3.6), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    show(left, image)
    left.set(title="the image", xlabel="column (pixels)", ylabel="row (pixels)")
    grey = image.mean(-1)
    right.imshow(grey, cmap="gray", vmin=0, vmax=255)
    picture = right.imshow(smooth, cmap="jet", alpha=0.5, vmin=0, vmax=max(float(smooth.max()), 1e-12))
    right.set(title=f"at {layer}", xlabel="column (pixels)", ylabel="row (pixels)")
    figure.colorbar(picture, ax=right, label="speaks for the class")
    figure.suptitle(f"Grad-CAM for {around.class_names[label]} (probability {probabilities[label]:.1%})")
    return figure
