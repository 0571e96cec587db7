"""Process-wide settings that make training faster, set by one call before JAX starts.

Importing or using jaxcnn changes no process-wide setting. The command line calls `settle`, and your own program can
call it, too:

    import jaxcnn
    print(jaxcnn.startup.settle())  # before the first JAX computation
"""

import ctypes
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import jax

from jaxcnn import kernels
from jaxcnn.errors import UsageError
from jaxcnn.startup import presets

__all__ = ["Settings", "settle", "settled"]

OFF = ("0", "false", "off")

MEMORY_SWITCH = "JAXCNN_KEEP_MEMORY"
"""Environment variable. If set to 0, `malloc` may return freed memory to the operating system."""

MALLOC_OPTIONS = ((-8, 1), (-4, 0), (-1, -1))
"""Options of glibc's `mallopt`: one arena (M_ARENA_MAX), no mmap (M_MMAP_MAX), never trim (M_TRIM_THRESHOLD)."""

XLA_SWITCH = "JAXCNN_XLA_OPTIONS"
"""Environment variable. If set to 0, `settle` does not add the options for oneDNN to `XLA_FLAGS`."""

XLA_OPTIONS = (
    "--xla_cpu_experimental_onednn_custom_call=true",
    "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution",
)
"""XLA options with which XLA calls the oneDNN library inside jaxlib for a convolution and its input gradient."""

SMALLEST_BATCH_TO_KEEP_MEMORY, SMALLEST_BATCH_FOR_OPTIONS = 2**18, 2**12
"""Smallest batches, in values (`N * H * W * C`), for which `settle` keeps freed memory and adds the XLA options.

A step on a smaller batch allocates little memory, and threads that share one arena of `malloc` wait for each other.
With a single arena, the step of LeNet-5 on one image took 0.7 ms instead of 0.4 ms. In a step on a small batch, calls
of oneDNN cost more time than they save.
"""

TRIAL_SECONDS = 60.0
"""Time limit in seconds for the child process that tries the XLA options."""

# This program prints whether XLA replaces a small convolution by a call of oneDNN. jaxlib aborts on an unknown option.
_TRIAL = """
import jax, jax.numpy as jnp
layout = ("NHWC", "HWIO", "NHWC")
convolve = jax.jit(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout))
compiled = convolve.lower(jnp.ones((1, 8, 8, 32)), jnp.ones((3, 3, 32, 32))).compile()
print("__onednn$convolution" in compiled.as_text())
"""


@dataclass(frozen=True)
class Settings:
    """The settings that `settle` changed, and why it left other settings unchanged. `str()` returns one line.

    Attributes:
      keeps_freed_memory: whether `malloc` keeps freed memory for later allocations.
      xla_options: options that `settle` added to `XLA_FLAGS`.
      compilation_cache: folder in which JAX stores compiled programs; None if `settle` did not set the folder.
      left_alone: pairs of the name of a setting and the reason why `settle` left the setting unchanged.
      is_late: whether JAX had created its devices before `settle` was called. After a late call, `malloc` still returns
        a part of the freed memory to the operating system.
      xla_preset: name of the preset whose flags are in `XLA_FLAGS`; None if no preset was chosen.

    >>> settings = Settings(True, (), None, (("XLA options", "the batch is small"), ("compilation cache", "it is set")))
    >>> print(settings)
    freed memory: kept; XLA options: unchanged (the batch is small); compilation cache: unchanged (it is set)
    """

    keeps_freed_memory: bool
    xla_options: tuple[str, ...]
    compilation_cache: Path | None
    left_alone: tuple[tuple[str, str], ...]
    is_late: bool = False
    xla_preset: str | None = None

    def __str__(self) -> str:
        made = {
            "freed memory": "kept" if self.keeps_freed_memory else None,
            "XLA options": " ".join(self.xla_options) or None,
            "compilation cache": self.compilation_cache,
        }
        reasons = dict(self.left_alone)
        parts = [f"{name}: {value or f'unchanged ({reasons[name]})'}" for name, value in made.items()]
        if self.is_late and self.keeps_freed_memory:
            parts[0] += " from now on (JAX has already started: memory that its threads hold is not affected)"
        if self.xla_preset is not None:
            parts.append(f"XLA preset: {self.xla_preset}")
        return "; ".join(parts)


# The result of the last call of `settle`. The options of `malloc` cannot be read back from the C library.
_settings: Settings | None = None


def settle(batch_values: int | None = None, xla_preset: str | None = None) -> Settings:
    """Make training in this process faster by changing process-wide settings. Call this function before JAX starts.

    - `malloc` keeps freed memory for later allocations. Otherwise, on Linux, XLA allocates the memory of a step anew at
      every call, and the system first fills each page with zeros. This work takes a tenth (ResNet-50) to a quarter
      (ResNet-20) of the time of a training step. In return, the memory of the process stays at its peak, which becomes
      somewhat higher.
    - XLA's options for oneDNN are added to `XLA_FLAGS` if jaxlib supports them. A child process tries the options once,
      which takes about a second, and the answer is cached.
    - JAX's compilation cache is turned on, so that the next process loads compiled programs. The cache is not turned on
      together with the options for oneDNN, because JAX cannot serialize programs that call oneDNN.
    - If a preset of XLA's options for GPUs is chosen, its flags are added to `XLA_FLAGS`.

    Settings that the user has made are never changed. Each setting has an environment variable that disables it:
    `JAXCNN_KEEP_MEMORY=0`, `JAXCNN_XLA_OPTIONS=0`, and JAX's own `JAX_ENABLE_COMPILATION_CACHE=false`.

    Args:
      batch_values: number of values in a batch of images, `N * H * W * C`, if known. Small batches gain nothing from
        keeping freed memory and from oneDNN, so these two settings then stay unchanged.
      xla_preset: name of a preset in `jaxcnn.startup.presets`. Default: the preset that the environment variable
        `JAXCNN_XLA_PRESET` names, or no preset if this variable is not set.

    Returns:
      The settings of the process.

    Raises:
      UsageError: if there is no preset of this name, if the installed XLA does not have the flags of the preset, or if
        JAX has already started without the flags of the preset.
    """
    global _settings
    preset = xla_preset or os.environ.get(presets.VARIABLE) or None
    if preset is not None:
        _use_preset(preset)
    left_alone: dict[str, str] = {}
    is_late = _jax_has_started() and not keeps_freed_memory()
    reason = _why_not_keep_memory(os.environ, batch_values)
    if reason is None and not _keep_freed_memory():
        reason = "the C library refused"
    keeps = keeps_freed_memory() or reason is None
    if reason is not None and not keeps:
        left_alone["freed memory"] = reason

    options: tuple[str, ...] = ()
    reason = _why_not_xla_options(os.environ, batch_values)
    if reason is None:
        given = os.environ.get("XLA_FLAGS", "")
        options = _missing_options(given)
        os.environ["XLA_FLAGS"] = " ".join([given, *options]).strip()
    else:
        left_alone["XLA options"] = reason

    folder = None
    reason = _why_not_compilation_cache(os.environ)
    if reason is None:
        folder = _cache_folder(os.environ) / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    else:
        left_alone["compilation cache"] = reason

    _settings = Settings(keeps, options, folder, tuple(left_alone.items()), is_late, preset)
    return _settings


def _use_preset(name: str) -> None:
    """Add the flags of a preset to `XLA_FLAGS`."""
    flags = presets.flags_of(name, os.environ)
    if flags and _jax_has_started():
        raise UsageError(
            f"XLA preset {name!r} cannot be set: JAX has already started. Call settle() before JAX starts."
        )
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()


def settled() -> Settings | None:
    """Return the result of the last call of `settle` in this process, or None if there was no call.

    >>> settings = settled()
    >>> settings is None or isinstance(settings, Settings)
    True
    """
    return _settings


def keeps_freed_memory() -> bool:
    """Return whether `settle` has made this process keep freed memory."""
    return _settings is not None and _settings.keeps_freed_memory


def advice(batch_values: int, device_platform: str) -> str | None:
    """Return one line that advises the user to call `settle`, or None if the call would not make the run faster.

    Args:
      batch_values: number of values in a batch of images.
      device_platform: platform of the devices of the run: "cpu", "gpu" or "tpu".
    """
    if device_platform != "cpu" or _settings is not None or _why_not_keep_memory(os.environ, batch_values) is not None:
        return None
    # Source of the numbers: benchmarks/README.md, "Memory that a step takes, on a CPU".
    return (
        "For faster CPU steps, call jaxcnn.startup.settle() before JAX starts. Without this call, steps take "
        "1.10x (ResNet-50) to 1.35x (ResNet-20) as long."
    )


def _why_not_keep_memory(environment: Mapping[str, str], batch_values: int | None) -> str | None:
    """Return why `settle` does not make `malloc` keep freed memory, or None if `settle` does so.

    >>> _why_not_keep_memory({}, batch_values=784)
    'the batch is small'
    """
    if batch_values is not None and batch_values < SMALLEST_BATCH_TO_KEEP_MEMORY:
        return "the batch is small"
    if environment.get(MEMORY_SWITCH, "1").lower() in OFF:
        return f"{MEMORY_SWITCH} disables it"
    users = [name for name in environment if name.startswith("MALLOC_")]
    users += ["LD_PRELOAD"] if "LD_PRELOAD" in environment else []
    users += ["GLIBC_TUNABLES"] if "glibc.malloc" in environment.get("GLIBC_TUNABLES", "") else []
    if users:
        return f"{users[0]} configures malloc"
    if platform.libc_ver()[0] != "glibc":
        return "the C library is not glibc"
    return None


def _keep_freed_memory() -> bool:
    """Make glibc's `malloc` keep freed memory, and return whether glibc accepted all options."""
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(option, value) for option, value in MALLOC_OPTIONS)


def _why_not_xla_options(environment: Mapping[str, str], batch_values: int | None) -> str | None:
    """Return why `settle` does not add the options for oneDNN to `XLA_FLAGS`, or None if `settle` adds them.

    The slow test, which tries the options in a child process, comes last.
    """
    if batch_values is not None and batch_values < SMALLEST_BATCH_FOR_OPTIONS:
        return "the batch is small"
    if environment.get(XLA_SWITCH, "1").lower() in OFF:
        return f"{XLA_SWITCH} disables them"
    if _has_onednn():
        return "jaxcnn's own oneDNN computes convolutions"
    if not _missing_options(environment.get("XLA_FLAGS", "")):
        return "XLA_FLAGS sets them already"
    if _jax_has_started():
        return "JAX has already started, and reads XLA_FLAGS only when it starts"
    if not options_work(XLA_OPTIONS, environment):
        return f"jaxlib {metadata.version('jaxlib')} does not use them"
    return None


def _missing_options(xla_flags: str) -> tuple[str, ...]:
    """Return the options whose names are not in `XLA_FLAGS` yet, so that values which the user chose stay."""
    return tuple(option for option in XLA_OPTIONS if option.split("=")[0] not in xla_flags)


def _has_onednn() -> bool:
    """Return whether the oneDNN library of `pip install 'jaxcnn[cpu]'` is installed and computes convolutions."""
    if kernels.selected() == "xla":
        return False
    try:
        return bool(metadata.version("onednn-cpu-gomp"))
    except metadata.PackageNotFoundError:
        return False


def _why_not_compilation_cache(environment: Mapping[str, str]) -> str | None:
    """Return why `settle` does not set the folder of JAX's compilation cache, or None if `settle` sets the folder.

    This function creates the folder if it does not exist.
    """
    if environment.get("JAX_ENABLE_COMPILATION_CACHE") in ("0", "false"):
        return "JAX_ENABLE_COMPILATION_CACHE disables it"
    if "JAX_COMPILATION_CACHE_DIR" in environment:
        return "JAX_COMPILATION_CACHE_DIR is set"
    if jax.config.values["jax_compilation_cache_dir"]:
        return f"its folder is already {jax.config.values['jax_compilation_cache_dir']}"
    if any(option in environment.get("XLA_FLAGS", "") for option in XLA_OPTIONS):
        # JAX warns (std::bad_alloc) when it serializes a program that calls oneDNN.
        return "programs that call XLA's oneDNN cannot be stored"
    if _jax_has_started():
        return "JAX has already started, and may have compiled without a cache"
    try:
        folder = _cache_folder(environment) / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        return f"its folder cannot be created: {error}"
    return None if os.access(folder, os.W_OK) else f"{folder} cannot be written"


def _cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of jaxcnn's caches, such as `~/.cache/jaxcnn`.

    Raises:
      RuntimeError: if the user has no home directory.
    """
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxcnn"


def _jax_has_started() -> bool:
    """Return whether JAX has created its devices."""
    from jax._src import xla_bridge  # JAX has no public function for this question

    return xla_bridge.backends_are_initialized()


def options_work(options: tuple[str, ...], environment: Mapping[str, str]) -> bool:
    """Return whether the installed jaxlib accepts these XLA options, and then computes a convolution with oneDNN.

    jaxlib 0.10.2 accepts the options but does not use oneDNN. An unknown option in `XLA_FLAGS` ends the process, so a
    child process tries the options. The answer of the child process is cached for this version of jaxlib and Python.
    """
    path = _answer_file(options, environment)
    if path is not None:
        try:
            cached = json.loads(path.read_text())
        except (OSError, ValueError):  # the file does not exist or is damaged
            cached = None
        if isinstance(cached, bool):
            return cached
    answer = _try_options(options, environment)
    if path is not None and answer is not None:
        _write(path, json.dumps(answer))
    return bool(answer)


def _answer_file(options: tuple[str, ...], environment: Mapping[str, str]) -> Path | None:
    """Return the path of the file that caches the answer of `_try_options`, or None if there is no home directory."""
    parts = [metadata.version("jaxlib"), sys.version, *options]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    try:
        return _cache_folder(environment) / f"xla-options-{key}.json"
    except RuntimeError:
        return None


def _try_options(options: tuple[str, ...], environment: Mapping[str, str]) -> bool | None:
    """Return whether XLA uses oneDNN in a child process with these options, or None if the child gave no answer."""
    child = {
        **environment,
        "XLA_FLAGS": " ".join(options),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    try:
        run = subprocess.run(
            [sys.executable, "-c", _TRIAL],
            env=child,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TRIAL_SECONDS,
            text=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if run.returncode == 0:
        return run.stdout.strip() == "True"
    # On an unknown option, jaxlib ends the process with status 1 or by SIGABRT. Any other failure of the process says
    # nothing about the options.
    return False if run.returncode in (1, -signal.SIGABRT) else None


def _write(path: Path, text: str) -> None:
    """Write a small file atomically. Do nothing if the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError:
        return
