"""Export to ONNX, for runtimes other than JAX. The export runs the model in ONNX Runtime and compares the logits.

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("network.onnx")
images = np.zeros((100, 28, 28, 1), np.uint8)
(logits,) = session.run(["logits"], {"images": images})
print(logits.argmax(axis=1))
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import kernels
from jaxcnn.errors import RunError, UsageError
from jaxcnn.layers.loops import unrolled
from jaxcnn.train import Trained
from jaxcnn.train.runtime.trained import FrozenModel

# Allowed error relative to the largest logit. Sums of float32 values in a different order cause smaller errors.
TOLERANCE = 1e-5

# Batch sizes with which the exported model is checked.
CHECKED = (1, 3)


def convert(trained: Trained) -> bytes:
    """Return the network as an ONNX model for any batch size, with the input `images` and the output `logits`.

    A network that computes in bfloat16 or float16 is exported in float32, because runtimes on a CPU lack these dtypes.

    Raises:
      UsageError: onnx or onnxruntime is not installed.
      RunError: the network has an operation that cannot be exported, or the exported network gives different logits.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"ONNX export needs onnx and onnxruntime: {error}. Run pip install 'jaxcnn[onnx]'.") from None
    from jaxcnn.export._onnx.graph import UnsupportedError
    from jaxcnn.export._onnx.translate import translate

    if trained.config.dtype != "float32":
        trained = dataclasses.replace(trained, model=trained.model.clone(dtype=jnp.float32))

    frozen = trained.frozen() if trained.can_be_frozen else trained

    def logits(variables: Any, images: jax.Array) -> jax.Array:
        return dataclasses.replace(frozen, variables=variables).logits(images)

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *trained.preprocessing.image_shape), trained.preprocessing.dtype)
    try:
        with kernels.inlined(), unrolled():
            model = translate(
                logits, frozen.variables, images, input_name="images", output_name="logits", named=_constants(frozen)
            )
        content = model.SerializeToString()
    except UnsupportedError as error:
        raise RunError(
            f"cannot express {trained.config.model} in ONNX: {error} is not supported. Use --format stablehlo."
        ) from None
    except ValueError as error:  # protobuf's limit of 2 GB
        raise RunError(
            f"cannot serialize {trained.config.model} as ONNX: {str(error)[:160]}. Use --format stablehlo."
        ) from error
    del model  # the model, `content` and the session of ONNX Runtime are each as large as the weights
    shape = (max(CHECKED), *trained.preprocessing.image_shape)
    examples = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if trained.preprocessing.dtype != np.uint8:
        examples = examples.astype(np.float32) / 255
    _check(onnxruntime, content, examples, np.asarray(jax.jit(trained.logits)(examples)))
    return content


def _constants(trained: Trained) -> Callable[[], Iterable[tuple[str, np.ndarray]]]:
    """Return a function that returns the named constants of a frozen network; for other networks, no constants."""
    return trained.model.function.named_arrays if isinstance(trained.model, FrozenModel) else tuple


def _check(onnxruntime: Any, content: bytes, images: np.ndarray, ours: np.ndarray) -> None:
    """Raise `RunError` if the logits that ONNX Runtime computes for `images` differ from the logits `ours`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: ONNX Runtime warns whenever it merges shapes
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for count in CHECKED:
        (theirs,) = session.run(["logits"], {"images": images[:count]})
        error = np.abs(theirs - ours[:count]).max() / np.abs(ours).max()
        if not error < TOLERANCE:
            raise RunError(
                f"the logits of the ONNX model differ by {error:.1e} of the largest logit. Use --format stablehlo."
            )
