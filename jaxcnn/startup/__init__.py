"""Process-wide settings that make training faster, set by one call before JAX starts.

A library must not change its process, so importing and using jaxcnn sets none of them. The command line calls `settle`,
and so can a program of your own:

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
"""Environment variable that, set to 0, lets `malloc` return freed memory to the system."""

MALLOC_OPTIONS = ((-8, 1), (-4, 0), (-1, -1))
"""Options of glibc's `mallopt`: one arena (M_ARENA_MAX), no mmap (M_MMAP_MAX), never trim (M_TRIM_THRESHOLD)."""

XLA_SWITCH = "JAXCNN_XLA_OPTIONS"
"""Environment variable that, set to 0, leaves `XLA_FLAGS` unchanged."""

XLA_OPTIONS = (
    "--xla_cpu_experimental_onednn_custom_call=true",
    "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution",
)
"""Options with which XLA computes a convolution and its input gradient by the oneDNN inside jaxlib."""

SMALLEST_BATCH_TO_KEEP_MEMORY, SMALLEST_BATCH_FOR_OPTIONS = 2**18, 2**12
"""Number of values in a batch of images below which freed memory and XLA's options are left alone.

A step on a smaller batch allocates little, and threads that share one arena wait for each other: LeNet-5's step on one
image took 0.7 ms instead of 0.4 ms. oneDNN's calls cost such a step more than they save.
"""

TRIAL_SECONDS = 60.0
"""Time limit for the child process that tries the XLA options."""

# Prints whether XLA replaces a small convolution by a call of oneDNN. jaxlib aborts on an option that it does not know.
_TRIAL = """
import jax, jax.numpy as jnp
layout = ("NHWC", "HWIO", "NHWC")
convolve = jax.jit(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout))
compiled = convolve.lower(jnp.ones((1, 8, 8, 32)), jnp.ones((3, 3, 32, 32))).compile()
print("__onednn$convolution" in compiled.as_text())
"""


@dataclass(frozen=True)
class Settings:
    """The settings that `settle` made, and the reasons for those that it did not make. Prints as one line.

    Attributes:
      keeps_freed_memory: whether `malloc` keeps freed memory for later allocations.
      xla_options: options that were added to `XLA_FLAGS`.
      compilation_cache: folder in which JAX stores compiled programs, if `settle` chose it.
      left_alone: pairs of a setting's name and the reason why it was not made.
      is_late: whether JAX had created its devices before freed memory was kept, so that a part is still returned.
      xla_preset: name of the preset whose flags are in `XLA_FLAGS`, if one was asked for.

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
            parts[0] += " from now on (JAX has already started: memory that its threads hold stays as it is)"
        if self.xla_preset is not None:
            parts.append(f"XLA preset: {self.xla_preset}")
        return "; ".join(parts)


# What this process was set to. It cannot be read back from the C library.
_settings: Settings | None = None


def settle(batch_values: int | None = None, xla_preset: str | None = None) -> Settings:
    """Make the settings of this process, and return them. Call this function before JAX starts.

    - Freed memory is kept. On Linux, XLA allocates the memory of a step anew at every call, and the system fills each
      page with zeros first: that is a tenth (ResNet-50) to a quarter (ResNet-20) of a training step. The process's
      memory stays at its peak, which is somewhat higher.
    - XLA's options for oneDNN are added to `XLA_FLAGS` where jaxlib has them. A child process tries them once, which
      takes about a second; the answer is cached.
    - Compiled programs are stored for the next process, unless these options are used: JAX cannot serialize programs
      that call oneDNN.
    - The flags of a preset of XLA's options for GPUs are added to `XLA_FLAGS`, if one is asked for.

    Settings of the user are never changed. Each setting has an environment variable to disable it:
    `JAXCNN_KEEP_MEMORY=0`, `JAXCNN_XLA_OPTIONS=0`, and JAX's own `JAX_ENABLE_COMPILATION_CACHE=false`.

    Args:
      batch_values: number of values in a batch of images, `N H W C`, if known. Small batches gain nothing from the
        first two settings, which are then left alone.
      xla_preset: name of a preset (`jaxcnn.startup.presets`). Default: that of `JAXCNN_XLA_PRESET`, or none.

    Raises:
      UsageError: if there is no such preset, if the installed XLA does not have its flags, or if JAX has already
        started without them.
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
        raise UsageError(f"XLA preset {name!r} comes too late: JAX has already started. Call settle before it.")
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
    """Return one line on what a run loses because `settle` was not called, or None if it loses nothing.

    Args:
      batch_values: number of values in a batch of images.
      device_platform: where the run computes: "cpu", "gpu" or "tpu".
    """
    if device_platform != "cpu" or _settings is not None or _why_not_keep_memory(os.environ, batch_values) is not None:
        return None
    # The figures are those of benchmarks/README.md, "Memory that a step takes, on a CPU".
    return (
        "For faster CPU steps call jaxcnn.startup.settle() before JAX starts: without it, steps take 1.10x (ResNet-50) "
        "to 1.35x (ResNet-20) the time."
    )


def _why_not_keep_memory(environment: Mapping[str, str], batch_values: int | None) -> str | None:
    """Return why freed memory is left to the system, or None if it is to be kept.

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
    """Make glibc's `malloc` keep freed memory; return whether it accepted."""
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(option, value) for option, value in MALLOC_OPTIONS)


def _why_not_xla_options(environment: Mapping[str, str], batch_values: int | None) -> str | None:
    """Return why `XLA_FLAGS` stays as it is, or None if options are to be added. Tries the options last: it is slow."""
    if batch_values is not None and batch_values < SMALLEST_BATCH_FOR_OPTIONS:
        return "the batch is small"
    if environment.get(XLA_SWITCH, "1").lower() in OFF:
        return f"{XLA_SWITCH} disables them"
    if _has_onednn():
        return "jaxcnn's own oneDNN computes convolutions"
    if not _missing_options(environment.get("XLA_FLAGS", "")):
        return "XLA_FLAGS sets them already"
    if _jax_has_started():
        return "JAX has already started, and reads XLA_FLAGS only then"
    if not options_work(XLA_OPTIONS, environment):
        return f"jaxlib {metadata.version('jaxlib')} does not use them"
    return None


def _missing_options(xla_flags: str) -> tuple[str, ...]:
    """Return the options whose names are not in `XLA_FLAGS`: a value that the user chose stays."""
    return tuple(option for option in XLA_OPTIONS if option.split("=")[0] not in xla_flags)


def _has_onednn() -> bool:
    """Return whether `pip install 'jaxcnn[cpu]'` installed a oneDNN that jaxcnn calls for convolutions."""
    if kernels.selected() == "xla":
        return False
    try:
        return bool(metadata.version("onednn-cpu-gomp"))
    except metadata.PackageNotFoundError:
        return False


def _why_not_compilation_cache(environment: Mapping[str, str]) -> str | None:
    """Return why JAX's compilation cache stays as it is, or None if its folder is to be set. Creates the folder."""
    if environment.get("JAX_ENABLE_COMPILATION_CACHE") in ("0", "false"):
        return "JAX_ENABLE_COMPILATION_CACHE disables it"
    if "JAX_COMPILATION_CACHE_DIR" in environment:
        return "JAX_COMPILATION_CACHE_DIR is set"
    if jax.config.values["jax_compilation_cache_dir"]:
        return f"it is {jax.config.values['jax_compilation_cache_dir']} already"
    if any(option in environment.get("XLA_FLAGS", "") for option in XLA_OPTIONS):
        # Serializing such a program ends in a warning (std::bad_alloc).
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
    """Return the user's folder for what jaxcnn caches. Raise `RuntimeError` if the user has no home directory."""
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxcnn"


def _jax_has_started() -> bool:
    """Return whether JAX has created its devices."""
    from jax._src import xla_bridge  # JAX has no public function for it

    return xla_bridge.backends_are_initialized()


def options_work(options: tuple[str, ...], environment: Mapping[str, str]) -> bool:
    """Return whether the installed jaxlib knows these XLA options, and computes a convolution by oneDNN with them.

    jaxlib 0.10.2 knows them without using them. An unknown option in `XLA_FLAGS` ends the process, so a child process
    tries them. Its answer is cached for this version of jaxlib and Python.
    """
    path = _answer_file(options, environment)
    if path is not None:
        try:
            cached = json.loads(path.read_text())
        except (OSError, ValueError):  # no answer yet, or a damaged one
            cached = None
        if isinstance(cached, bool):
            return cached
    answer = _try_options(options, environment)
    if path is not None and answer is not None:
        _write(path, json.dumps(answer))
    return bool(answer)


def _answer_file(options: tuple[str, ...], environment: Mapping[str, str]) -> Path | None:
    """Return the file of a trial's cached answer, or None if the user has no home directory."""
    parts = [metadata.version("jaxlib"), sys.version, *options]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    try:
        return _cache_folder(environment) / f"xla-options-{key}.json"
    except RuntimeError:
        return None


def _try_options(options: tuple[str, ...], environment: Mapping[str, str]) -> bool | None:
    """Return whether a child process uses oneDNN with the options, or None if it gave no answer."""
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
    # jaxlib ends the process with 1 or by abort. A process that something else killed says nothing about the options.
    return False if run.returncode in (1, -signal.SIGABRT) else None


def _write(path: Path, text: str) -> None:
    """Write a small file in one step, or not at all if the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError:
        return
