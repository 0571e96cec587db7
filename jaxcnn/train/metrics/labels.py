"""Read labels: one class for each example, or any number of classes."""

import jax
import jax.numpy as jnp

from jaxcnn.errors import UsageError


def classes_of(labels: jax.Array) -> jax.Array:
    """Return the class of each label, int32 `[N]`.

    Args:
      labels: integers `[N]`, or float targets `[N, classes]` such as mixed labels, whose class is the largest one.
    """
    if jnp.issubdtype(jnp.result_type(labels), jnp.floating):
        labels = jnp.argmax(labels, axis=-1)
    return jnp.asarray(labels, jnp.int32)


def is_true(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Return whether each class is a label of an example, bool `[N, classes]`.

    Args:
      labels: multi-hot, float `[N, classes]`. A class above 0.5 is a label.
      logits: `[N, classes]`.

    Raises:
      UsageError: if the labels are not of the shape of the logits.
    """
    if jnp.shape(labels) != logits.shape:
        raise UsageError(
            f"multi-hot labels must have the shape of the logits, {logits.shape}, got {jnp.shape(labels)}. "
            "Give a number for each class"
        )
    return labels > 0.5
