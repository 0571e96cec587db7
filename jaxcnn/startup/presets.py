"""Named sets of XLA's options for GPUs. All presets are off by default, because no preset has been measured on a GPU.

The text of each effect follows XLA's own description of the flag in `xla/debug_options_flags.cc`.
"""

import importlib.util
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from jaxcnn.errors import UsageError, unknown_name

VARIABLE = "JAXCNN_XLA_PRESET"
"""Environment variable with the name of the preset to use if `--xla-preset` is not given."""

PLUGINS = ("xla_cuda13", "xla_cuda12", "xla_rocm7", "xla_rocm60")
"""Modules in `jax_plugins` that contain XLA for GPUs. jaxlib and each of these modules parse `XLA_FLAGS` separately."""

CHECK_SECONDS = 60.0
"""Time limit in seconds for the child process that checks flags."""

# An unknown flag, or a value that cannot be parsed, ends the process.
_CHECK = "import jax; jax.local_devices(backend='cpu')"


@dataclass(frozen=True)
class Preset:
    """A set of XLA's flags.

    Attributes:
      flags: flags of XLA in the form `--NAME=VALUE`.
      effect: one sentence that says what XLA does with these flags.
    """

    flags: tuple[str, ...]
    effect: str


PRESETS: dict[str, Preset] = {
    "latency-hiding": Preset(
        ("--xla_gpu_enable_latency_hiding_scheduler=true",),
        "Schedules transfers between GPUs so that they overlap with computation.",
    ),
    "conv-fusion": Preset(
        ("--xla_gpu_experimental_enable_conv_fusion=true",),
        "Rewrites convolutions as fusions instead of custom calls (experimental).",
    ),
    "nhwc": Preset(
        ("--xla_gpu_force_conv_nhwc=true",),
        "Gives all convolutions of cuDNN the NHWC layout.",
    ),
    "command-buffer-loops": Preset(
        ("--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONDITIONAL,WHILE",),
        "Records loops and conditionals into CUDA graphs, too.",
    ),
    "no-command-buffers": Preset(
        ("--xla_gpu_enable_command_buffer=",),
        "Launches every kernel separately, without CUDA graphs.",
    ),
    "no-triton-gemm": Preset(
        ("--xla_gpu_enable_triton_gemm=false",),
        "Computes all matrix products with cuBLAS.",
    ),
    "triton-gemm-any": Preset(
        ("--xla_gpu_triton_gemm_any=true",),
        "Lets Triton compute any matrix product that it supports.",
    ),
    "autotune-off": Preset(
        ("--xla_gpu_autotune_level=0",),
        "Takes the first algorithm for products and convolutions, without trying them: compiling is faster.",
    ),
    "autotune-exhaustive": Preset(
        ("--xla_gpu_exhaustive_tiling_search=true",),
        "Tries all tilings of Triton's matrix products: compiling is slower.",
    ),
}


def flags_of(name: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the flags of a preset that `XLA_FLAGS` does not set yet, so that values which the user chose stay.

    Args:
      name: name of the preset, such as "nhwc".
      environment: environment variables by name, such as `os.environ`.

    Raises:
      UsageError: if there is no preset of this name, or if the installed XLA lacks one of its flags.
    """
    if name not in PRESETS:
        raise unknown_name("XLA preset", name, PRESETS)
    set_already = {word.split("=")[0] for word in environment.get("XLA_FLAGS", "").split()}
    flags = tuple(flag for flag in PRESETS[name].flags if flag.split("=")[0] not in set_already)
    check_flags(name, flags, environment)
    return flags


def check_flags(name: str, flags: Sequence[str], environment: Mapping[str, str]) -> None:
    """Check that the installed XLA has the flags of a preset.

    A child process starts JAX on a CPU with the flags. A GPU plugin cannot start without a GPU, so its library file is
    searched for the names of the flags.

    Raises:
      UsageError: if XLA lacks one of the flags. An unknown flag would end the process when JAX starts.
    """
    if not flags:
        return
    refused = _refused_by_jaxlib(flags, environment)
    if refused is not None:
        raise UsageError(
            f"XLA preset {name!r} cannot be used: jaxlib {metadata.version('jaxlib')} does not accept {refused}. "
            "Choose another preset or another jaxlib."
        )
    for library in plugin_libraries():
        for flag in flags:
            if not has_flag(library, flag):
                raise UsageError(
                    f"XLA preset {name!r} cannot be used: GPU plugin {library.parent.name} has no flag "
                    f"{flag.split('=')[0]}. Choose another preset or another plugin."
                )


def _refused_by_jaxlib(flags: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Return the flags that jaxlib refuses when JAX starts on a CPU, or None if jaxlib accepts all flags."""
    child = {
        **environment,
        "XLA_FLAGS": " ".join(flags),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    try:
        run = subprocess.run(
            [sys.executable, "-c", _CHECK],
            env=child,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CHECK_SECONDS,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            f"XLA's flags cannot be checked: {type(error).__name__}. Try again without a preset."
        ) from None
    if run.returncode == 0:
        return None
    unknown = re.search(r"Unknown flags? in XLA_FLAGS: (.*)", run.stderr)
    return unknown.group(1).strip() if unknown else " ".join(flags)


def plugin_libraries() -> list[Path]:
    """Return the paths of the installed library files (`.so`) that contain XLA for GPUs."""
    found = []
    for name in PLUGINS:
        try:
            spec = importlib.util.find_spec(f"jax_plugins.{name}")
        except ModuleNotFoundError:  # no plugin at all
            return []
        folders = spec.submodule_search_locations if spec is not None else None
        found += [path for folder in folders or () for path in sorted(Path(folder).glob("*plugin*.so"))]
    return found


def has_flag(library: Path, flag: str) -> bool:
    """Return whether a library file contains the name of a flag as a complete string, not as part of a longer one."""
    name = flag.split("=")[0].removeprefix("--")
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"\0" + name.encode() + b"\0") >= 0
