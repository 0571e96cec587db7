"""Which libraries stand beside jaxcnn, and the environment in which each runs."""

import importlib.metadata
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ENVIRONMENTS = Path(".venv-peers")


@dataclass(frozen=True)
class Peer:
    """A library, or a way to use it.

    Attributes:
      name: in the results.
      module: its file in this folder.
      imports: what must be importable for it to run.
      requirements: what pip installs into its environment; None for jaxcnn's own environment.
      environment: name of its environment, which ways to use one library share; another one for each version of JAX.
      options: added to the task.
    """

    name: str
    module: str
    imports: tuple[str, ...]
    requirements: tuple[str, ...] | None = None
    environment: str = ""
    options: tuple[tuple[str, object], ...] = ()


JAX_HERE = importlib.metadata.version("jax")


def same_jax() -> tuple[str, ...]:
    """The versions of JAX here, which the JAX libraries beside us get as well."""
    return tuple(f"{name}=={importlib.metadata.version(name)}" for name in ("jax", "jaxlib"))


TORCH = ("torch>=2.11", "torchvision", "numpy")

PEERS = (
    Peer("jaxcnn", "ours", ("jaxcnn",)),
    Peer("jaxcnn-without-onednn", "ours", ("jaxcnn",), options=(("native", False),)),
    Peer("flax", "flax_linen", ("flax", "optax")),
    Peer("haiku", "dm_haiku", ("haiku", "optax"), (*same_jax(), "dm-haiku>=0.0.14", "optax"), f"haiku-jax-{JAX_HERE}"),
    Peer(
        "equinox",
        "equinox_modules",
        ("equinox", "optax"),
        (*same_jax(), "equinox>=0.13", "optax"),
        f"equinox-jax-{JAX_HERE}",
    ),
    Peer("keras", "keras_jax", ("keras",), (*same_jax(), "keras>=3.10"), f"keras-jax-{JAX_HERE}"),
    Peer("torch", "pytorch", ("torch",), TORCH, "torch", (("compile", False),)),
    Peer("torch-compiled", "pytorch", ("torch",), TORCH, "torch", (("compile", True),)),
)


class NotInstalledError(RuntimeError):
    """A library that is not there, and why."""


def python_for(peer: Peer, environments: Path, *, here: bool, install: bool) -> str:
    """The Python interpreter to run a peer with, in an environment that is made if it is missing.

    Args:
      peer: the library.
      environments: folder of the environments.
      here: whether to use this process's environment for all of them.
      install: whether a missing environment may be made.

    Raises:
      NotInstalledError: if the library cannot be had.
    """
    if here or peer.requirements is None:
        python = sys.executable
    else:
        folder = environments / peer.environment
        python = str(folder.absolute() / "bin" / "python")
        if not _has(python, peer) and install:
            _make(folder, peer)
    if not _has(python, peer):
        raise NotInstalledError(f"not installed: {', '.join(peer.imports)} cannot be imported")
    return python


def _has(python: str, peer: Peer) -> bool:
    if not os.access(python, os.X_OK):
        return False
    look = f"import importlib.util as u, sys; sys.exit(not all(u.find_spec(n) for n in {peer.imports!r}))"
    return subprocess.run([python, "-c", look], capture_output=True).returncode == 0


def _make(folder: Path, peer: Peer) -> None:
    print(f"making the environment {folder} with {', '.join(peer.requirements or ())}", file=sys.stderr)
    commands = (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", *(peer.requirements or ())],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise NotInstalledError(f"not installed: {lines[-1][:200] if lines else 'pip failed'}")
