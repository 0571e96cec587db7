"""Translate a JAX function to an ONNX model: tables map each JAX operation to one small function.

| module | contents |
|---|---|
| `translate` | walk a jaxpr, evaluate constants, and look up all other operations in the tables |
| `graph` | nodes and initializers of the ONNX graph, and the order of axes of its tensors |
| `elementwise` | table of elementwise operations |
| `shapes` | table of operations that move values |
| `windows` | table of convolutions, poolings, matrix products and reductions |

This package imports `onnx`, which is an optional dependency. `jaxcnn.export.onnx` imports it on demand.
"""
