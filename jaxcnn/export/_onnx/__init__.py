"""Translate a JAX function to an ONNX model: one small function for each operation, in literal tables.

| module | contents |
|---|---|
| `translate` | walk a jaxpr, evaluate what is constant, and look up the rest in the tables |
| `graph` | nodes and initializers of the ONNX graph, and the order of axes of its tensors |
| `elementwise` | table of elementwise operations |
| `shapes` | table of operations that move values |
| `windows` | table of convolutions, poolings, products of matrices and reductions |

This package imports `onnx`, which is an optional dependency. `jaxcnn.export.onnx` imports it on demand.
"""
