"""Export to ONNX with jax2onnx. The result is checked with onnxruntime before it is written."""

import logging
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import kernels
from jaxcnn._scoped import quiet_logger
from jaxcnn.errors import RunError, UsageError
from jaxcnn.train import Trained

# Allowed error relative to the largest logit: float32 sums in another order differ by less.
TOLERANCE = 1e-5


def convert(trained: Trained) -> bytes:
    """Return the network as an ONNX model, for any batch size, with the input `images` and the output `logits`.

    Raises:
      UsageError: jax2onnx or onnxruntime is not installed.
      RunError: jax2onnx cannot convert the network, or the converted network gives different logits.
    """
    try:
        import onnxruntime  # type: ignore[import-not-found]
        from jax2onnx import to_onnx  # type: ignore[import-not-found]
    except ImportError as error:
        raise UsageError(f"ONNX export needs jax2onnx and onnxruntime: {error}; pip install 'jaxcnn[onnx]'") from None
    import jax.export

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *trained.preprocessing.image_shape), jnp.uint8)
    try:
        with warnings.catch_warnings(), kernels.inlined(), quiet_logger("jax2onnx", logging.ERROR):
            warnings.simplefilter("ignore")
            model: Any = to_onnx(trained.logits, [images], input_names=["images"], output_names=["logits"])
    except Exception as error:  # jax2onnx has no common exception type
        raise RunError(f"jax2onnx cannot convert {trained.config.model}: {str(error)[:200]}") from error
    _make_poolings_flat(model.graph)
    content = model.SerializeToString()
    _check(onnxruntime, content, trained)
    return content


def _make_poolings_flat(graph: Any) -> None:
    """Replace each max pooling over four spatial axes, which onnxruntime does not support, by one over two.

    jax2onnx 0.17 converts `lax.reduce_window` to a pooling of `[1, 1, N, H, W, C]` with the window `[1, h, w, 1]`:
    Unsqueeze, Unsqueeze, MaxPool, Squeeze. These are replaced by Transpose, MaxPool, Transpose.
    """
    from onnx import helper  # type: ignore[import-not-found]

    maker = {name: node for node in graph.node for name in node.output}
    nodes, replaced = [], {}
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        window = list(attributes.get("kernel_shape", ()))
        if node.op_type != "MaxPool" or len(window) != 4 or window[0] != 1 or window[3] != 1:
            nodes.append(node)
            continue
        source = maker[maker[node.input[0]].input[0]].input[0]
        (squeeze,) = (other for other in graph.node if node.output[0] in other.input)
        moved, pooled = f"{node.output[0]}_channels_first", f"{node.output[0]}_pooled"
        pads = list(attributes.get("pads", [0] * 8))
        flat = {
            "kernel_shape": window[1:3],
            "strides": list(attributes.get("strides", [1] * 4))[1:3],
            "pads": [*pads[1:3], *pads[5:7]],
        }
        nodes.append(helper.make_node("Transpose", [source], [moved], perm=[0, 3, 1, 2]))
        nodes.append(helper.make_node("MaxPool", [moved], [pooled], **flat))
        replaced[squeeze.output[0]] = helper.make_node("Transpose", [pooled], [squeeze.output[0]], perm=[0, 2, 3, 1])
    nodes = [replaced.get(node.output[0], node) if node.op_type == "Squeeze" else node for node in nodes]
    used = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
    while unused := [node for node in nodes if not used & set(node.output)]:
        nodes = [node for node in nodes if node not in unused]
        used = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _check(onnxruntime: Any, content: bytes, trained: Trained) -> None:
    """Raise `RunError` if onnxruntime computes different logits than the network."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: it warns whenever it merges shapes
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        shape = (count, *trained.preprocessing.image_shape)
        images = np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)
        theirs = session.run(None, {"images": images})[0]
        ours = np.asarray(jax.jit(trained.logits)(images))
        error = np.abs(theirs - ours).max() / np.abs(ours).max()
        if not error < TOLERANCE:
            raise RunError(f"the ONNX model's logits differ by {error:.1e} of the largest logit; no file was written")
