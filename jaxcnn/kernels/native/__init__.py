"""The native library: convolutions on a CPU by oneDNN or by Winograd's algorithm, sums over channels, and pooling.

`pip install 'jaxcnn[cpu]'` provides oneDNN, and `jaxcnn.kernels.native._build` compiles the library at first use. The
library identifies a convolution by 26 numbers, its key: role, shapes, geometry and dtypes. `convolution.cpp` documents
the key.
"""

import ctypes
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.kernels.native import _build

CONVOLUTION = "jaxcnn_convolution"
BIASED_CONVOLUTION = "jaxcnn_biased_convolution"
FUSED_CONVOLUTION = "jaxcnn_fused_convolution"
ACTIVATED_CONVOLUTION = "jaxcnn_activated_convolution"
CHANNEL_SUMS = "jaxcnn_channel_sums"
NORMALIZATION = "jaxcnn_normalization"
NORMALIZATION_GRADIENT = "jaxcnn_normalization_gradient"
BATCH_NORM = "jaxcnn_batch_norm"
BATCH_NORM_GRADIENT = "jaxcnn_batch_norm_gradient"
LAYER_NORM = "jaxcnn_layer_norm"
LAYER_NORM_GRADIENT = "jaxcnn_layer_norm_gradient"
NORMALIZATIONS = (NORMALIZATION, NORMALIZATION_GRADIENT, BATCH_NORM, BATCH_NORM_GRADIENT)
NORMALIZATIONS += (LAYER_NORM, LAYER_NORM_GRADIENT)
MAX_POOL = "jaxcnn_max_pool"
MAX_POOL_GRADIENT = "jaxcnn_max_pool_gradient"
AVG_POOL = "jaxcnn_avg_pool"
AVG_POOL_GRADIENT = "jaxcnn_avg_pool_gradient"
POOLING = (MAX_POOL, MAX_POOL_GRADIENT, AVG_POOL, AVG_POOL_GRADIENT)


@functools.cache
def _library() -> ctypes.CDLL | _build.NotBuilt:
    """Return the library, with its functions registered with XLA, or the reason why there is no library."""
    try:
        library = _build.load()
    except _build.NotBuilt as reason:
        return reason
    library.jaxcnn_implementation.restype = ctypes.c_bool
    library.jaxcnn_fused_is_fast.restype = ctypes.c_bool
    library.jaxcnn_activated_is_fast.restype = ctypes.c_bool
    for name in (CONVOLUTION, BIASED_CONVOLUTION, CHANNEL_SUMS, *NORMALIZATIONS, *POOLING):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return library


@functools.cache
def _register(library: ctypes.CDLL) -> None:
    """Register the convolutions for inference. Each call has a state, which is created when XLA builds the program.

    If `_register` ran before the CPU backend starts, the backend would register functions before the types of their
    states, and fail. `_register` therefore starts the backend first. `_register` is called when a program is lowered.
    """
    jax.local_devices(backend="cpu")
    for name in (FUSED_CONVOLUTION, ACTIVATED_CONVOLUTION):
        prefix = name.removesuffix("_convolution")
        pointers = []
        for kind in ("id", "info"):
            function = getattr(library, f"{prefix}_state_{kind}")
            function.restype = ctypes.c_void_p
            pointers.append(jax.ffi.pycapsule(ctypes.c_void_p(function())))
        type_id, type_info = pointers
        jax.ffi.register_ffi_type(f"{prefix}_state", {"type_id": type_id, "type_info": type_info}, platform="cpu")
        stages = {
            "instantiate": jax.ffi.pycapsule(getattr(library, f"{prefix}_instantiate")),
            "execute": jax.ffi.pycapsule(getattr(library, name)),
        }
        jax.ffi.register_ffi_target(name, stages, platform="cpu")


@functools.cache
def is_available() -> bool:
    """Return whether there is a native library. Warn once if oneDNN is installed but the library cannot be used."""
    library = _library()
    if isinstance(library, _build.BuildError):
        warnings.warn(
            f"native kernels cannot be used: {library}. Programs use XLA's kernels instead, with the same results. Set "
            "JAXCNN_KERNELS=xla to silence this warning.",
            RuntimeWarning,
            stacklevel=2,
        )
    return isinstance(library, ctypes.CDLL)


def require() -> None:
    """Raise `UsageError` with the reason if there is no native library."""
    library = _library()
    if isinstance(library, _build.NotBuilt):
        raise UsageError(f"there are no native kernels: {library}")


def requires_exact_sums() -> bool:
    """Return whether a convolution that is lowered now must be computed as an exact sum of products.

    If the result is False, Winograd's algorithm computes 3x3 kernels for which it is faster. Winograd's algorithm has a
    rounding error of 1e-6 of the largest output; the rounding error of oneDNN's sums is 3e-7.
    `jax.default_matmul_precision("highest")` or "float32" forbids Winograd's algorithm.
    """
    precision = jax.config.values["jax_default_matmul_precision"]
    return precision in ("highest", "float32")


@functools.lru_cache(maxsize=4096)
def implementation(key: tuple[int, ...]) -> tuple[str, bool]:
    """Return the library's name for the implementation of a convolution, and whether this implementation is fast.

    In float32, every implementation except oneDNN's reference loops is fast. In bfloat16, only implementations with the
    processor's bfloat16 instructions are fast. The name is "winograd" or a name of oneDNN, such as
    "brgconv:avx512_core_bf16".
    """
    library = _library()
    if not isinstance(library, ctypes.CDLL):
        return "", False
    name = ctypes.create_string_buffer(128)
    is_fast = library.jaxcnn_implementation((ctypes.c_int64 * len(key))(*key), name, ctypes.c_size_t(len(name)))
    return name.value.decode(), bool(is_fast)


def is_fast(key: tuple[int, ...]) -> bool:
    return implementation(key)[1]


@functools.lru_cache(maxsize=4096)
def is_fused_fast(key: tuple[int, ...]) -> bool:
    """Return whether oneDNN has a faster implementation than its reference loops for a convolution in `fused.cpp`."""
    library = _library()
    if not isinstance(library, ctypes.CDLL):
        return False
    _register(library)
    return bool(library.jaxcnn_fused_is_fast((ctypes.c_int64 * len(key))(*key)))


@functools.lru_cache(maxsize=4096)
def is_activated_fast(key: tuple[int, ...]) -> bool:
    """Return whether the library has a fast implementation for a convolution of activated feature maps."""
    library = _library()
    if not isinstance(library, ctypes.CDLL):
        return False
    _register(library)
    return bool(library.jaxcnn_activated_is_fast((ctypes.c_int64 * len(key))(*key), ctypes.c_int64(len(key))))


def function(name: str, outputs: Sequence[Any], **numbers: Sequence[float]) -> Callable[..., Sequence[jax.Array]]:
    """Return a function of the library, such as `CONVOLUTION`, as a function of JAX arrays.

    `outputs` are objects with the shapes and dtypes of the function's results, and `numbers` are the function's
    attributes by name.
    """
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs]
    attributes = {key: np.array(value) for key, value in numbers.items()}
    return lambda *operands: jax.ffi.ffi_call(name, shapes)(*operands, **attributes)
