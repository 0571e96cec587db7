"""Table of the classes and functions that pickles of PyTorch name, with their meanings. The reader calls none of them.

A name outside of this table becomes a `Placeholder`, which has no behavior. A checkpoint may therefore also contain
options, dates, numbers of NumPy and objects of the user's own classes.

References:
  torch/_utils.py, torch/_tensor.py and torch/storage.py of PyTorch 2.14; what `torch.save` writes.
"""

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.weights._stored import BFLOAT16


class Global(NamedTuple):
    """Meaning of a class or function that a pickle names.

    Attributes:
      kind: what the class or function makes: "dict", "tensor", "typed tensor", "parameter", "subclass", "storage",
        "dtype", "unusable" or "other".
      value: the dtype for the kind "storage", or the description of the tensor for the kind "unusable".
      name: the name in the pickle, with a dot between the module and its attribute.
    """

    kind: str
    value: Any = None
    name: str = ""


STORAGES = {
    "DoubleStorage": np.dtype("f8"),
    "FloatStorage": np.dtype("f4"),
    "HalfStorage": np.dtype("f2"),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype("i8"),
    "IntStorage": np.dtype("i4"),
    "ShortStorage": np.dtype("i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "ComplexFloatStorage": np.dtype("c8"),
    "ComplexDoubleStorage": np.dtype("c16"),
    "QInt8Storage": np.dtype("i1"),
    "QUInt8Storage": np.dtype("u1"),
    "QInt32Storage": np.dtype("i4"),
    "UntypedStorage": np.dtype("u1"),
}

DTYPES = {
    "float64": np.dtype("f8"),
    "float32": np.dtype("f4"),
    "float16": np.dtype("f2"),
    "bfloat16": BFLOAT16,
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "uint16": np.dtype("u2"),
    "uint32": np.dtype("u4"),
    "uint64": np.dtype("u8"),
    **{f"int{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
}

UNUSABLE = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor on the meta device, which has no values",
    "_rebuild_device_tensor_from_numpy": "a tensor of another device",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
    "_rebuild_wrapper_subclass": "a tensor of a subclass",
}

GLOBALS = {
    "collections.OrderedDict": "dict",
    "collections.defaultdict": "dict",
    "collections.Counter": "dict",
    "builtins.dict": "dict",
    "__builtin__.dict": "dict",
    "torch._utils._rebuild_tensor": "tensor",
    "torch._utils._rebuild_tensor_v2": "tensor",
    "torch._utils._rebuild_tensor_v3": "typed tensor",
    "torch._utils._rebuild_parameter": "parameter",
    "torch._utils._rebuild_parameter_with_state": "parameter",
    "torch.nn.parameter.Parameter": "parameter",
    "torch.nn.parameter.Buffer": "parameter",
    "torch._tensor._rebuild_from_type_v2": "subclass",
    **{f"torch.{name}": "storage" for name in STORAGES},
    "torch.storage.UntypedStorage": "storage",
    **{f"torch.{name}": "dtype" for name in DTYPES},
    **{f"torch._utils.{name}": "unusable" for name in UNUSABLE},
}
"""Kind of each name that the reader knows."""

_VALUES = {**STORAGES, **DTYPES, **UNUSABLE}

# Functions that attacks call. The reader itself calls nothing. Refusing the file protects users who open it in torch.
_DANGEROUS_MODULES = frozenset(
    (
        *("os", "posix", "nt", "subprocess", "commands", "popen2", "pty", "multiprocessing", "asyncio"),
        *("shutil", "sys", "ctypes"),
        *("runpy", "importlib", "pickle", "_pickle", "marshal", "code", "codeop", "pip", "venv", "ensurepip"),
        *("socket", "webbrowser", "urllib", "http", "requests"),
        *("bdb", "pdb", "timeit", "cProfile", "profile"),
    )
)
_DANGEROUS_BUILTINS = frozenset(
    ("eval", "exec", "execfile", "compile", "__import__", "open", "file", "input", "breakpoint")
)


def lookup(module: str, attribute: str) -> Global:
    """Return the meaning of a name in a pickle.

    Raises:
      UsageError: if the name is a function that starts programs, opens files or loads code. No checkpoint needs such a
        function.
    """
    name = f"{module}.{attribute}"
    builtin = module in ("builtins", "__builtin__", "io", "_io") and attribute.partition(".")[0] in _DANGEROUS_BUILTINS
    if builtin or module.partition(".")[0] in _DANGEROUS_MODULES:
        raise UsageError(f"the pickle asks for {abbreviate(name)}, which weights do not need. Do not use this file")
    kind = GLOBALS.get(name, "other")
    return Global(kind, _VALUES.get(attribute) if kind in ("storage", "dtype", "unusable") else None, name)


def abbreviate(text: str) -> str:
    """Return text from a file as one line of at most 80 characters."""
    text = " ".join(text.split())
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 80 else f"{text[:80]}..."
