"""Convert labels to classes. An example has a single class, or several classes in multi-label classification."""

import jax
import jax.numpy as jnp

from jaxcnn.errors import UsageError


def classes_of(labels: jax.Array) -> jax.Array:
    """Return the class of each label, int32 `[N]`.

    Args:
      labels: integers `[N]`, or float targets `[N, classes]`, such as mixed labels. The class of a float target is the
        class with the largest value.
    """
    if jnp.issubdtype(jnp.result_type(labels), jnp.floating):
        labels = jnp.argmax(labels, axis=-1)
    return jnp.asarray(labels, jnp.int32)


def is_true(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Return a mask of the true classes of each example, bool `[N, classes]`.

    Args:
      labels: multi-hot labels, float `[N, classes]`. A class is true if its value is above 0.5.
      logits: logits, `[N, classes]`.

    Raises:
      UsageError: if the shapes of labels and logits differ.
    """
    if jnp.shape(labels) != logits.shape:
        raise UsageError(
            f"multi-hot labels must have the shape of the logits, {logits.shape}, got {jnp.shape(labels)}. "
            "Give one number for each class."
        )
    return labels > 0.5
