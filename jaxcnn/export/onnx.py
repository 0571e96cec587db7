"""ONNX, by jax2onnx, checked against onnxruntime before it is given out."""

import logging
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import kernels
from jaxcnn.errors import RunError, UsageError
from jaxcnn.train import Trained

# Of the largest logit: what float32 in another order of summation may differ by.
TOLERANCE = 1e-5


def convert(trained: Trained) -> bytes:
    """The network as an ONNX model with the input `images` and the output `logits`, for any number of images.

    Raises:
      UsageError: jax2onnx or onnxruntime is not installed.
      RunError: the network has a part that the converter cannot take, or takes wrongly.
    """
    try:
        import onnxruntime  # type: ignore[import-not-found]
        from jax2onnx import to_onnx  # type: ignore[import-not-found]
    except ImportError as error:
        raise UsageError(f"ONNX is written by jax2onnx ({error}); pip install 'jaxcnn[onnx]'") from None
    import jax.export

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *trained.preprocessing.image_shape), jnp.uint8)
    try:
        with warnings.catch_warnings(), kernels.inlined():
            warnings.simplefilter("ignore")
            logging.getLogger("jax2onnx").setLevel(logging.ERROR)
            model: Any = to_onnx(trained.logits, [images], input_names=["images"], output_names=["logits"])
    except Exception as error:  # the converter has no common type for what it does not know
        raise RunError(f"jax2onnx cannot convert {trained.config.model}: {str(error)[:200]}") from error
    _make_poolings_flat(model.graph)
    content = model.SerializeToString()
    _check(onnxruntime, content, trained)
    return content


def _make_poolings_flat(graph: Any) -> None:
    """Turns each max pooling over `[N, H, W, C]` as four spatial axes, which onnxruntime refuses, into one over two.

    jax2onnx 0.17 makes of `lax.reduce_window` a pooling of `[1, 1, N, H, W, C]` by a window of `[1, h, w, 1]`:
    Unsqueeze, Unsqueeze, MaxPool, Squeeze. In their place come Transpose, MaxPool, Transpose.
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
    """Raises `RunError` if onnxruntime's answers are not the network's own."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of shapes that it merges
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        shape = (count, *trained.preprocessing.image_shape)
        images = np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)
        theirs = session.run(None, {"images": images})[0]
        ours = np.asarray(jax.jit(trained.logits)(images))
        error = np.abs(theirs - ours).max() / np.abs(ours).max()
        if not error < TOLERANCE:
            raise RunError(f"onnxruntime's logits differ by {error:.1e} of the largest; the file is not written")
