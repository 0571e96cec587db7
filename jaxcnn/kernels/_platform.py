"""Which hardware a program is being traced for, where the fastest form of a layer depends on it."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_portable: ContextVar[bool] = ContextVar("portable", default=False)


@contextlib.contextmanager
def portable_forms() -> Iterator[None]:
    """What is traced within is for any platform, such as a program that is exported."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def traced_for_cpu() -> bool:
    """Whether what is traced now will run on CPUs, as far as JAX's defaults tell.

    The default device if one is set, else the default backend. Forms chosen by this answer compute the same on every
    platform, so that a program that is placed elsewhere after all is right, and merely not the fastest.
    """
    if _portable.get():
        return False
    device = jax.config.values["jax_default_device"]
    return (getattr(device, "platform", device) or jax.default_backend()) == "cpu"


def computed_once(x: jax.Array) -> jax.Array:
    """The same array, which on a CPU is in memory before anything is computed from it; its gradient likewise.

    For what several layers read, the maps between two blocks. XLA on a CPU fuses what is cheap, such as the end of a
    block, into all that reads it, and so computes it again for each; along a chain of residual or dense blocks these
    programs grow from block to block, and take most of the time to compile.
    """
    return jax.lax.optimization_barrier(x) if traced_for_cpu() else x
