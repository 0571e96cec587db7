"""Convolutions on a CPU by oneDNN, where `pip install 'jaxcnn[cpu]'` brought it, and sums of our own beside them.

How the library comes about is in `jaxcnn.kernels.native._build`. `key` below is what `convolution.cpp` says it is: the
role, shapes and geometry of a convolution in 22 numbers. The 23rd is whether it must be the plain sum of products.
"""

import ctypes
import functools
import os
from typing import Any

import jax
import numpy as np

from jaxcnn.kernels.native import _build

CONVOLUTION = "jaxcnn_convolution"
CHANNEL_SUMS = "jaxcnn_channel_sums"
NORMALIZATION = "jaxcnn_normalization"
NORMALIZATION_GRADIENT = "jaxcnn_normalization_gradient"

WINOGRAD_SWITCH = "JAXCNN_WINOGRAD"
"""The environment variable that, set to 0, leaves every convolution to oneDNN's plain sums of products."""


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The library with its handlers known to XLA, or None where convolutions are XLA's own."""
    library = _build.load()
    if library is not None:
        library.jaxcnn_is_fast.restype = ctypes.c_bool
        for name in (CONVOLUTION, CHANNEL_SUMS, NORMALIZATION, NORMALIZATION_GRADIENT):
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return library


def is_used() -> bool:
    """Whether convolutions on a CPU run by oneDNN in this process; builds what it takes at the first call."""
    return _library() is not None


def must_be_plain() -> bool:
    """Whether a convolution that is lowered now must be the plain sum of products, which rounds a little less.

    Else kernels of 3x3 are computed by Winograd's algorithm where it is faster (`winograd.cpp`). It rounds as if sums
    were longer, to 1e-6 of the largest output (oneDNN's sums: 3e-7), which `jax.default_matmul_precision("highest")`
    and "float32" forbid, as does `JAXCNN_WINOGRAD=0`.
    """
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return precision in ("highest", "float32") or os.environ.get(WINOGRAD_SWITCH, "1").lower() in _build.OFF


@functools.lru_cache(maxsize=4096)
def is_fast(key: tuple[int, ...]) -> bool:
    """Whether oneDNN is there and has more than reference loops for this convolution of float32, or we have."""
    library = _library()
    return library is not None and bool(library.jaxcnn_is_fast((ctypes.c_int64 * len(key))(*key)))


def lowering(key: tuple[int, ...]) -> Any:
    """A rule for `jax.interpreters.mlir` that calls oneDNN for this convolution."""
    rule = jax.ffi.ffi_lowering(CONVOLUTION)
    return functools.partial(rule, key=np.array(key, np.int64))


def channel_sums(ctx: Any, *operands: Any) -> Any:
    """A rule for `jax.interpreters.mlir` that calls `channel_sums.cpp`."""
    return jax.ffi.ffi_lowering(CHANNEL_SUMS)(ctx, *operands)


def normalization(ctx: Any, *operands: Any, numbers: tuple[float, float, float]) -> Any:
    """A rule that calls `channel_sums.cpp` for `[C]` of a batch normalisation: mean, r, factor, and both running ones.

    The numbers are momentum, epsilon, and what the variance is multiplied by for the running one.
    """
    return jax.ffi.ffi_lowering(NORMALIZATION)(ctx, *operands, numbers=np.array(numbers, np.float64))


def normalization_gradient(ctx: Any, *operands: Any) -> Any:
    """The same for its gradient: f, factor and shift, of which that by x is made, and those by scale and bias."""
    return jax.ffi.ffi_lowering(NORMALIZATION_GRADIENT)(ctx, *operands)


def may_be_called(ctx: Any) -> bool:
    """Whether the program that is lowered is for here, and what it computes at this place is all on one device.

    XLA cannot divide a call among the devices of a `jit` over a mesh, and an exported program must run elsewhere.
    """
    module, axes = ctx.module_context, ctx.module_context.axis_context
    is_whole = getattr(axes, "num_devices", 1) == 1 and (
        not hasattr(axes, "manual_axes") or set(axes.manual_axes) == set(axes.mesh.axis_names)
    )
    return is_whole and not module.lowering_parameters.for_export
