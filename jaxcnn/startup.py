"""What a program settles before JAX starts: where compilations are kept, XLA's options, what becomes of freed memory.

A library leaves these to its caller. The command line is such a caller, and so is a program of one's own that begins
with `jaxcnn.startup.settle()`. What the user has set stays as it is.
"""

import ctypes
import os
from collections.abc import Mapping, MutableMapping
from importlib import metadata
from pathlib import Path

import jax

from jaxcnn import kernels

OFF = ("0", "false", "off")

_keeps_memory = False

XLA_SWITCH = "JAXCNN_XLA_OPTIONS"
"""The environment variable that, set to 0, leaves XLA's options alone."""

XLA_OPTIONS = {
    # Convolutions by the oneDNN inside of jaxlib, forward and the image's gradient.
    "0.12.0": (
        "--xla_cpu_experimental_onednn_custom_call=true",
        "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution",
    ),
}
"""Options for CPUs by version of jaxlib (its first three numbers): an option that a version lacks ends the process."""

MEMORY_SWITCH = "JAXCNN_KEEP_MEMORY"
"""The environment variable that, set to 0, lets freed memory go back to the system at once."""

MALLOC_OPTIONS = ((-8, 1), (-4, 0), (-1, -1))
"""For glibc's `mallopt`: one arena (M_ARENA_MAX), no mmap (M_MMAP_MAX), nothing given back (M_TRIM_THRESHOLD)."""


LEAST_KEPT, LEAST_OPTIONS = 2**18, 2**12
"""Values that a batch of images has at least for freed memory to be kept, and for XLA's options.

With smaller ones a step takes little memory, and threads that share one list of it wait for each other: LeNet-5's step
with a single image took 0.7 ms in place of 0.4. XLA's own oneDNN costs such steps more than it saves.
"""


def settle(batch_values: int | None = None) -> None:
    """Call it once, when JAX is loaded and has not started.

    On Linux, XLA's programs for CPUs take new memory for what they compute at every call, and the system fills each
    page with zeros first: of a training step that is a tenth (ResNet-50) to a quarter (ResNet-20) of the time. So
    freed memory is kept for the next step. The process's memory then stays at its peak, somewhat higher than it was.

    Args:
      batch_values: how many values the images of a batch have, `N H W C`, if that is known; with small ones nothing but
        the folder of compiled programs is settled.
    """
    values = LEAST_KEPT if batch_values is None else batch_values
    if values >= LEAST_KEPT:
        keep_freed_memory(os.environ)
    flags = xla_flags(os.environ, metadata.version("jaxlib"), _has_onednn()) if values >= LEAST_OPTIONS else None
    if flags is not None:
        os.environ["XLA_FLAGS"] = flags
        return  # programs that call this oneDNN cannot be kept: to write them down ends in a warning (std::bad_alloc)
    folder = compilations(os.environ)
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def compilations(environment: MutableMapping[str, str]) -> Path | None:
    """Where compiled programs are kept for the next call, one folder a user; None where the user has said it.

    >>> str(compilations({"XDG_CACHE_HOME": "/cache"}))
    '/cache/jaxcnn/compiled'
    >>> compilations({"JAX_COMPILATION_CACHE_DIR": ""})
    """
    if "JAX_COMPILATION_CACHE_DIR" in environment or environment.get("JAX_ENABLE_COMPILATION_CACHE") in ("0", "false"):
        return None
    folder = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxcnn" / "compiled"
    return folder if _is_writable(folder) else None


def xla_flags(environment: MutableMapping[str, str], version: str, has_onednn: bool) -> str | None:
    """The value that `XLA_FLAGS` should get, None for the one that it has.

    >>> xla_flags({"XLA_FLAGS": "--xla_dump_to=/tmp/x"}, "0.12.0.1", has_onednn=False).split()[0]
    '--xla_dump_to=/tmp/x'
    >>> xla_flags({}, "0.10.2", has_onednn=False)
    """
    options = XLA_OPTIONS.get(".".join(version.split(".")[:3]), ())
    given = environment.get("XLA_FLAGS", "")
    if has_onednn or environment.get(XLA_SWITCH, "1").lower() in OFF or not options:
        return None
    missing = [option for option in options if option.split("=")[0] not in given]
    return " ".join([given, *missing]).strip() if missing else None


def keep_freed_memory(environment: Mapping[str, str]) -> bool:
    """Makes `malloc` keep what is freed, for the next who asks; returns whether it does now.

    Not where the user has said otherwise: by `JAXCNN_KEEP_MEMORY=0`, by settings of glibc's, or by another allocator.
    Not where there is no glibc.
    """
    global _keeps_memory
    names = {name for name in environment if name.startswith("MALLOC_")} | {"LD_PRELOAD"} & environment.keys()
    is_users = bool(names) or "glibc.malloc" in environment.get("GLIBC_TUNABLES", "")
    if not is_users and environment.get(MEMORY_SWITCH, "1").lower() not in OFF:
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            _keeps_memory = all(libc.mallopt(option, value) for option, value in MALLOC_OPTIONS)
    return _keeps_memory


def keeps_freed_memory() -> bool:
    """Whether this process has been told to."""
    return _keeps_memory


def _is_writable(folder: Path) -> bool:
    """Whether there is such a folder, made if need be, that files can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _has_onednn() -> bool:
    """Whether `pip install 'jaxcnn[cpu]'` brought a oneDNN that convolutions are handed to."""
    try:
        return kernels.selected() != "xla" and bool(metadata.version("onednn-cpu-gomp"))
    except metadata.PackageNotFoundError:
        return False
