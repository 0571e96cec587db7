"""Export to StableHLO with `jax.export`: a portable program that includes the weights.

Running the program requires JAX, but not jaxcnn or Flax:

    import jax.export
    import numpy as np

    network = jax.export.deserialize(open("network.stablehlo", "rb").read())
    images = np.zeros((100, 28, 28, 1), np.uint8)
    logits = np.asarray(network.call(images))
    print(logits.argmax(axis=1))
"""

from jaxcnn import kernels
from jaxcnn.errors import UsageError
from jaxcnn.train import Trained

# The exported program contains code for each of these platforms.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def convert(trained: Trained) -> bytes:
    """Return the network as the bytes of a `jax.export.Exported`, for any batch size and all platforms in `PLATFORMS`.

    Raises:
      UsageError: flatbuffers, which `jax.export` needs to serialize, is not installed.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise UsageError("StableHLO export needs flatbuffers. Run pip install 'jaxcnn[export]'.") from None
    import jax.export

    trained = trained.frozen() if trained.can_be_frozen else trained
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *trained.preprocessing.image_shape), trained.preprocessing.dtype)
    with kernels.inlined():
        exported = jax.export.export(jax.jit(trained.logits), platforms=PLATFORMS)(images)
    return bytes(exported.serialize())
