"""Build and load the native library.

The library is built once for each user and each version of its source code, JAX and oneDNN.

`pip install 'jaxcnn[cpu]'` provides oneDNN; the C++ compiler is the machine's own. The library is cached in
`$XDG_CACHE_HOME/jaxcnn/native` (`~/.cache/jaxcnn/native`), in a file that ends with the SHA-256 of the library. This
checksum detects a truncated or changed file, which is built again.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import jax

HERE = Path(__file__).parent
SOURCES, HEADERS = (tuple(sorted(HERE.rglob(pattern))) for pattern in ("*.cpp", "*.h"))
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC")
FUNCTION = "jaxcnn_implementation"
"""Name of a function that every complete library contains."""
DIGEST = 32
SPINS = 2000
"""Number of times that an idle thread of GCC's OpenMP checks for work before it sleeps: about 20 microseconds."""


class NotBuilt(Exception):
    """There is no native library. The message gives the reason."""


class BuildError(NotBuilt):
    """The native library cannot be built or loaded although oneDNN is installed. The message gives the reason."""


def load() -> ctypes.CDLL:
    """Load the native library; build it first if needed.

    Raises:
      NotBuilt: oneDNN is not installed.
      BuildError: the library cannot be built or loaded.
    """
    try:
        include, shared = _packages()
    except metadata.PackageNotFoundError:
        raise NotBuilt("oneDNN is not installed. Run pip install 'jaxcnn[cpu]'") from None
    try:
        return _loaded(_library(include, shared), shared)
    except OSError as error:
        raise BuildError(str(error).strip()) from error


def _loaded(library: Path, shared: Path) -> ctypes.CDLL:
    """Load the library. A file that cannot be loaded is removed from the cache, so that the next start builds it again.

    Raises:
      BuildError: the file is not a library, or lacks a function, although the compiler reported success.
      OSError: oneDNN cannot be loaded.
    """
    with _waiting_asleep():
        ctypes.CDLL(str(shared))
        try:
            loaded = ctypes.CDLL(str(library))
        except OSError as error:
            if os.statvfs(library).f_flag & getattr(os, "ST_NOEXEC", 0):  # a flag of Linux
                remedy = "Set XDG_CACHE_HOME to a folder on another disk"
                raise BuildError(f"{library.parent} is on a disk that runs no programs (noexec). {remedy}") from error
            library.unlink(missing_ok=True)
            raise BuildError(f"the compiler wrote no library that can be loaded: {str(error).strip()}") from error
    if not hasattr(loaded, FUNCTION):
        library.unlink(missing_ok=True)
        raise BuildError(f"the compiler wrote a library without the function {FUNCTION}")
    return loaded


def _packages() -> tuple[Path, Path]:
    """Return the folder of oneDNN's headers, and the path of oneDNN's library."""
    return _file("onednn-devel-cpu-gomp", "dnnl.hpp").parent, _file("onednn-cpu-gomp", "libdnnl.so.3")


def _file(package: str, name: str) -> Path:
    """Return the file `name` of an installed package. If several files have this name, return the outermost one."""
    paths = [Path(str(path.locate())).resolve() for path in metadata.files(package) or () if path.name == name]
    if not paths:
        raise metadata.PackageNotFoundError(package)
    return min(paths, key=lambda path: len(path.parts))


def _library(include: Path, shared: Path) -> Path:
    """Return the library's path in the cache. Build the library if it is missing or damaged."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    versions = (jax.__version__, metadata.version("jaxlib"), metadata.version("onednn-cpu-gomp"))
    parts = (*(path.read_text() for path in (*SOURCES, *HEADERS)), *versions, str(shared), platform.machine(), *FLAGS)
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = _cache_folder()
    library = folder / f"convolution-{name}.so"
    if not _is_whole(library):
        if compiler is None:
            raise BuildError("no C++ compiler was found. Install g++, or set CXX to the name of a compiler")
        folder.mkdir(parents=True, exist_ok=True)
        _build(compiler, include, shared, library)
    return library


def _cache_folder() -> Path:
    """Return the folder in which built libraries are cached. Raise `BuildError` if the user has no home directory."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxcnn" / "native"
    except RuntimeError:
        raise BuildError("there is no home directory for the cache. Set XDG_CACHE_HOME to a folder") from None


def _build(compiler: str, include: Path, shared: Path, library: Path) -> None:
    """Compile into a temporary file and move it to `library` in one step: other processes may build the library too."""
    handle, name = tempfile.mkstemp(suffix=".so", dir=library.parent)
    os.close(handle)
    built = Path(name)
    command = [
        *(compiler, *FLAGS, *_openmp(compiler), f"-I{HERE}", f"-I{jax.ffi.include_dir()}", f"-I{include}"),
        *map(str, SOURCES),
        *(f"-Wl,-rpath,{shared.parent}", str(shared), "-lpthread", "-o", name),
    ]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if result.returncode:
            lines = [line for line in result.stderr.splitlines() if "error" in line] or ["no message"]
            raise BuildError(f"{compiler} failed: {lines[0]}")
        content = built.read_bytes()
        if not content:
            raise BuildError(f"{compiler} reported success but wrote no library")
        built.write_bytes(content + hashlib.sha256(content).digest())
        built.chmod(0o755)
        built.replace(library)
    except subprocess.TimeoutExpired:
        raise BuildError(f"{compiler} took more than 300 s") from None
    finally:
        built.unlink(missing_ok=True)


def _openmp(compiler: str) -> tuple[str, ...]:
    """Return the flag for GCC's OpenMP, which oneDNN's package uses. Clang has a different OpenMP and gets no flag."""
    path = shutil.which(compiler) or compiler
    return () if "clang" in Path(path).resolve().name else ("-fopenmp",)


def _is_whole(library: Path) -> bool:
    if not library.is_file():
        return False
    content = library.read_bytes()
    if len(content) <= DIGEST:  # an empty library with its checksum, which earlier versions cached
        return False
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


@contextlib.contextmanager
def _waiting_asleep() -> Iterator[None]:
    """Within this context, load OpenMP such that its idle threads sleep after about 20 microseconds.

    OpenMP reads the environment variables for this setting while OpenMP is loaded. Threads that never sleep take cores
    from XLA. Threads that sleep at once must be woken for each convolution of a network, which takes about as long as a
    small convolution.
    """
    chosen = {name: os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    if chosen == dict.fromkeys(chosen):
        os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": str(SPINS)}
    try:
        yield
    finally:
        for name, value in chosen.items():
            if value is None:
                os.environ.pop(name, None)
