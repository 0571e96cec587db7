"""Train with a loss of your own: the focal loss (Lin et al., 2017), which gives hard examples a larger weight."""

import sys

import jax
import jax.numpy as jnp

from jaxcnn.data import open_dataset
from jaxcnn.train import Config, fit


def focal_loss(logits, labels, gamma=2.0):
    """Return the loss of each example, [N]."""
    probability = jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], axis=-1)[:, 0]
    return -((1 - probability) ** gamma) * jnp.log(probability + 1e-9)


data = open_dataset("fashion_mnist_mini", train_split="train[:300]", test_split="test[:503]")
config = Config(workdir=sys.argv[1], epochs=2, batch_size=32, checkpoint_every=4, progress=False)
result = fit(config, data=data, loss=focal_loss)
print(f"focal loss {result.test_loss:.3f} of {result.test_examples} test images")
