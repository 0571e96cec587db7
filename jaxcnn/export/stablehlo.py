"""StableHLO, the portable form of a compiled JAX function, with its weights inside, by `jax.export`.

Ten lines run it, anywhere that JAX is, without jaxcnn or Flax:

    import jax.export
    import numpy as np

    network = jax.export.deserialize(open("network.stablehlo", "rb").read())
    images = np.zeros((100, 28, 28, 1), np.uint8)
    logits = np.asarray(network.call(images))
    print(logits.argmax(axis=1))
"""

import jax.numpy as jnp

from jaxcnn import kernels
from jaxcnn.errors import UsageError
from jaxcnn.train import Trained

# The program is lowered for each of these; whoever runs it needs one of them.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def convert(trained: Trained) -> bytes:
    """The network as a serialized `jax.export.Exported`, for any number of images and on every platform.

    Raises:
      UsageError: flatbuffers, in which JAX writes it, is not installed.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise UsageError("StableHLO is written by the package flatbuffers; pip install 'jaxcnn[export]'") from None
    import jax.export

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *trained.preprocessing.image_shape), jnp.uint8)
    with kernels.inlined():
        exported = jax.export.export(jax.jit(trained.logits), platforms=PLATFORMS)(images)
    return bytes(exported.serialize())
