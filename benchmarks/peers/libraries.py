"""List the compared libraries, and create the Python environment of each."""

import importlib.metadata
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ENVIRONMENTS = Path(".venv-peers")


@dataclass(frozen=True)
class Peer:
    """A library in one configuration.

    Attributes:
      name: name in the results.
      module: its module in this folder.
      imports: modules that must be importable.
      requirements: packages that pip installs into its environment; None to use the environment of jaxcnn.
      environment: name of its environment. Configurations of one library share it; JAX libraries have one environment
        per version of JAX.
      options: additional entries of the task.
    """

    name: str
    module: str
    imports: tuple[str, ...]
    requirements: tuple[str, ...] | None = None
    environment: str = ""
    options: tuple[tuple[str, object], ...] = ()


JAX_VERSION = importlib.metadata.version("jax")


def same_jax() -> tuple[str, ...]:
    """Return requirements that pin JAX to this environment's version, so that all JAX libraries use the same one."""
    return tuple(f"{name}=={importlib.metadata.version(name)}" for name in ("jax", "jaxlib"))


TORCH = ("torch>=2.11", "torchvision", "numpy")

TRAINING = (
    Peer("jaxcnn", "ours", ("jaxcnn",)),
    Peer("jaxcnn-without-onednn", "ours", ("jaxcnn",), options=(("native", False),)),
    Peer("flax", "flax_linen", ("flax", "optax")),
    Peer(
        "haiku", "dm_haiku", ("haiku", "optax"), (*same_jax(), "dm-haiku>=0.0.14", "optax"), f"haiku-jax-{JAX_VERSION}"
    ),
    Peer(
        "equinox",
        "equinox_modules",
        ("equinox", "optax"),
        (*same_jax(), "equinox>=0.13", "optax"),
        f"equinox-jax-{JAX_VERSION}",
    ),
    Peer("keras", "keras_jax", ("keras",), (*same_jax(), "keras>=3.10"), f"keras-jax-{JAX_VERSION}"),
    Peer("torch", "pytorch", ("torch",), TORCH, "torch", (("compile", False),)),
    Peer("torch-compiled", "pytorch", ("torch",), TORCH, "torch", (("compile", True),)),
)


def _runtime(name: str, library: str, requirements: tuple[str, ...] | None = None, **options: object) -> Peer:
    return Peer(name, "inference", (library,), requirements, library, (("library", library), *options.items()))


INFERENCE = (
    _runtime("jaxcnn-frozen", "jaxcnn", frozen=True),
    _runtime("jaxcnn", "jaxcnn", frozen=False),
    _runtime("torch", "torch", TORCH, compile=False),
    _runtime("torch-compiled", "torch", TORCH, compile=True),
    _runtime("onnxruntime", "onnxruntime", ("onnxruntime", "numpy")),
    _runtime("openvino", "openvino", ("openvino", "numpy")),
)

PEERS = {"train": TRAINING, "inference": INFERENCE}
"""The libraries of each mode. The first one is the baseline of the others' ratios."""


class NotInstalledError(RuntimeError):
    """A library is not installed; the message says why."""


def python_for(peer: Peer, environments: Path, *, here: bool, install: bool) -> str:
    """Return the path of the Python interpreter that runs a library.

    Args:
      peer: the library.
      environments: folder with the virtual environments.
      here: whether to run every library in this process's environment.
      install: whether to create a missing environment.

    Raises:
      NotInstalledError: if the library is not installed and cannot be installed.
    """
    if here or peer.requirements is None:
        python = sys.executable
    else:
        folder = environments / peer.environment
        python = str(folder.absolute() / "bin" / "python")
        if not _has(python, peer) and install:
            _create_environment(folder, peer)
    if not _has(python, peer):
        raise NotInstalledError(f"not installed: {', '.join(peer.imports)} cannot be imported")
    return python


def _has(python: str, peer: Peer) -> bool:
    """Return whether the interpreter exists and can import the library."""
    if not os.access(python, os.X_OK):
        return False
    code = f"import importlib.util as u, sys; sys.exit(not all(u.find_spec(n) for n in {peer.imports!r}))"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def _create_environment(folder: Path, peer: Peer) -> None:
    print(f"creating the environment {folder} with {', '.join(peer.requirements or ())}", file=sys.stderr)
    commands = (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", *(peer.requirements or ())],
    )
    for command in commands:
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            lines = (process.stderr or process.stdout).strip().splitlines()
            raise NotInstalledError(f"not installed: {lines[-1][:200] if lines else 'pip failed'}")
