"""Convolutions on a CPU by oneDNN, where `pip install 'jaxcnn[cpu]'` brought it; see `jaxcnn.native.build`.

`key` below is what `convolution.cpp` says it is: the role, shapes and geometry of a convolution in 22 numbers.
"""

import ctypes
import functools
from typing import Any

import jax
import numpy as np

from jaxcnn.native import build

TARGET = "jaxcnn_convolution"


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The library with its handler known to XLA, or None where convolutions are XLA's own."""
    library = build.load()
    if library is not None:
        library.jaxcnn_is_fast.restype = ctypes.c_bool
        handler = jax.ffi.pycapsule(library.jaxcnn_convolution)
        jax.ffi.register_ffi_target(TARGET, handler, platform="cpu")
    return library


def is_used() -> bool:
    """Whether convolutions on a CPU run by oneDNN in this process; builds what it takes at the first call."""
    return _library() is not None


@functools.lru_cache(maxsize=4096)
def is_fast(key: tuple[int, ...]) -> bool:
    """Whether oneDNN is there and has more than reference loops for this convolution of float32."""
    library = _library()
    return library is not None and bool(library.jaxcnn_is_fast((ctypes.c_int64 * len(key))(*key)))


def lowering(key: tuple[int, ...]) -> Any:
    """A rule for `jax.interpreters.mlir` that calls oneDNN for this convolution."""
    rule = jax.ffi.ffi_lowering(TARGET)
    return functools.partial(rule, key=np.array(key, np.int64))
