"""Building and loading the native library, once per user, version of JAX and version of oneDNN.

`pip install 'jaxcnn[cpu]'` brings oneDNN; the C++ compiler is the machine's own. What it built is kept in
`$XDG_CACHE_HOME/jaxcnn/native` (`~/.cache/jaxcnn/native`), with its own SHA-256 at its end, so that a file that was cut
short or changed is built anew rather than loaded.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import jax

SWITCH = "JAXCNN_NATIVE"
"""The environment variable that, set to 0, leaves every convolution to XLA."""

OFF = ("0", "false", "off")
"""What switches something off that an environment variable is for."""

SOURCES = tuple(Path(__file__).with_name(name) for name in ("convolution.cpp", "winograd.cpp", "channel_sums.cpp"))
HEADERS = tuple(Path(__file__).with_name(name) for name in ("winograd.h", "processors.h"))
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC")
DIGEST = 32


class NotBuilt(Exception):
    """Why there is no native library, in one line."""


def load() -> ctypes.CDLL | None:
    """The native library, built if need be; None if switched off or without oneDNN, or, with a warning, if it fails."""
    if os.environ.get(SWITCH, "1").lower() in OFF:
        return None
    try:
        include, shared = _packages()
    except metadata.PackageNotFoundError:
        return None
    try:
        library = _library(include, shared)
        with _waiting_asleep():
            ctypes.CDLL(str(shared))
            return ctypes.CDLL(str(library))
    except (NotBuilt, OSError) as error:
        warnings.warn(
            f"convolutions run on XLA alone, since oneDNN cannot be used ({str(error).strip()}); "
            f"{SWITCH}=0 switches it off without this warning",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _packages() -> tuple[Path, Path]:
    """oneDNN's folder of headers, and its library."""
    return _file("onednn-devel-cpu-gomp", "dnnl.hpp").parent, _file("onednn-cpu-gomp", "libdnnl.so.3")


def _file(package: str, name: str) -> Path:
    """A file of an installed package, the outermost of this name, wherever its kind of installation put it."""
    paths = [Path(str(path.locate())).resolve() for path in metadata.files(package) or () if path.name == name]
    if not paths:
        raise metadata.PackageNotFoundError(package)
    return min(paths, key=lambda path: len(path.parts))


def _library(include: Path, shared: Path) -> Path:
    """The library's path in the cache, where it is whole."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    parts = (
        *(source.read_text() for source in (*SOURCES, *HEADERS)),
        jax.__version__,
        metadata.version("jaxlib"),
        metadata.version("onednn-cpu-gomp"),
        str(shared),
        platform.machine(),
        *FLAGS,
    )
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxcnn" / "native"
    library = folder / f"convolution-{name}.so"
    if not _is_whole(library):
        if compiler is None:
            raise NotBuilt("there is no C++ compiler: install g++, or name one in CXX")
        folder.mkdir(parents=True, exist_ok=True)
        _build(compiler, include, shared, library)
    return library


def _build(compiler: str, include: Path, shared: Path, library: Path) -> None:
    """Compiles into a file of its own beside `library`, and puts it there in one step: processes may do so at once."""
    handle, name = tempfile.mkstemp(suffix=".so", dir=library.parent)
    os.close(handle)
    built = Path(name)
    command = [
        *(compiler, *FLAGS, *_openmp(compiler), f"-I{jax.ffi.include_dir()}", f"-I{include}", *map(str, SOURCES)),
        *(f"-Wl,-rpath,{shared.parent}", str(shared), "-lpthread", "-o", name),
    ]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if result.returncode:
            lines = [line for line in result.stderr.splitlines() if "error" in line] or ["no message"]
            raise NotBuilt(f"{compiler} failed: {lines[0]}")
        content = built.read_bytes()
        built.write_bytes(content + hashlib.sha256(content).digest())
        built.chmod(0o755)
        built.replace(library)
    except subprocess.TimeoutExpired:
        raise NotBuilt(f"{compiler} took more than 300 s") from None
    finally:
        built.unlink(missing_ok=True)


def _openmp(compiler: str) -> tuple[str, ...]:
    """The flag for threads of the OpenMP that oneDNN's package uses, GCC's; Clang has its own, and does without."""
    path = shutil.which(compiler) or compiler
    return () if "clang" in Path(path).resolve().name else ("-fopenmp",)


def _is_whole(library: Path) -> bool:
    if not library.is_file():
        return False
    content = library.read_bytes()
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


@contextmanager
def _waiting_asleep():
    """While OpenMP loads, tells it that idle threads sleep: XLA's threads need the cores that they would spin on."""
    variable = "OMP_WAIT_POLICY"
    chosen = os.environ.get(variable)
    os.environ.setdefault(variable, "passive")
    try:
        yield
    finally:
        if chosen is None:
            del os.environ[variable]
