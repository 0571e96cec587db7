"""Parse and describe the targets of a compilation: TPU slices, GPUs and the CPU."""

import importlib.util
import math
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxcnn.aot.gpu_configs import GPU_CONFIGS
from jaxcnn.errors import UsageError, shortened, unknown_name
from jaxcnn.hardware import Device, Links, find_device
from jaxcnn.startup import XLA_OPTIONS

# JAX's device kind of each chip, by the chip's name in a target.
TPUS = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
GPUS = {name: config.kind for name, config in GPU_CONFIGS.items()}
CHIPS = (*TPUS, *GPUS, "cpu")

LARGEST = {"v4": 4096, "v5e": 256, "v5p": 6144, "v6e": 256}
"""Number of chips in the largest slice of each TPU version, from the Cloud TPU documentation."""
MOST_GPUS = 1024
"""Maximum number of GPUs of a target."""

FRACTION_VARIABLE, GPU_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75

TPU_ENVIRONMENT = {
    # Without this variable, libtpu asks the metadata server of a TPU virtual machine.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # dummy value; the topology selects the chips
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
    # Several processes may load libtpu at once, because processes that only compile do not use a TPU.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True)
class Target:
    """One or more chips for which a training step is compiled.

    Attributes:
      name: name of the target, such as "v5e:2x4".
      chip: name of the chip in `CHIPS`, such as "v5e".
      platform: JAX's name of the platform: "tpu", "cuda" or "cpu".
      shape: lengths of the axes of a TPU slice, `(number,)` for GPUs, or `(1,)` for a CPU.

    >>> target = Target("v5e:2x4", chip="v5e", platform="tpu", shape=(2, 4))
    >>> target.count, target.kind, f"{target.memory / 2**30:.2f} GiB"
    (8, 'TPU v5 lite', '15.75 GiB')
    """

    name: str
    chip: str
    platform: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def kind(self) -> str:
        """JAX's name of the chip (`device.device_kind`), such as "TPU v5 lite"."""
        return {**TPUS, **GPUS}.get(self.chip, "cpu")

    @property
    def device(self) -> Device | None:
        """Performance and memory of one chip from its data sheet; None for a CPU."""
        return find_device(self.kind)

    @property
    def memory(self) -> int | None:
        """Memory of one chip that programs can use, in bytes; None for a CPU.

        On a GPU, programs can use the fraction of the memory that the environment variable
        `XLA_PYTHON_CLIENT_MEM_FRACTION` states, by default 0.75.

        Raises:
          UsageError: if `XLA_PYTHON_CLIENT_MEM_FRACTION` is not a number.
        """
        if self.device is None or self.device.memory is None:
            return None
        if self.platform != "cuda":
            return self.device.memory
        given = os.environ.get(FRACTION_VARIABLE, "")
        try:
            return int(self.device.memory * float(given or GPU_FRACTION))
        except ValueError:
            raise UsageError(f"{FRACTION_VARIABLE} is not a number: {given!r}. Give a number such as 0.9.") from None

    @property
    def links(self) -> Links | None:
        """The links between the chips; None for a CPU."""
        return None if self.device is None else self.device.links

    def scaled(self, count: int) -> "Target":
        """Return a target with `count` chips of the same kind. TPU chips form the most compact slice.

        Args:
          count: number of chips, a power of two.
        """
        if self.platform != "tpu":
            return parse_target(self.chip if count == 1 else f"{self.chip}:{count}")
        axes = len(self.shape)
        shape = [1] * axes
        for _ in range(round(math.log2(count))):
            # Double the last of the shortest axes, because slices are named 2x4, not 4x2.
            shortest = max(range(axes), key=lambda axis: (-shape[axis], axis))
            shape[shortest] *= 2
        return parse_target(f"{self.chip}:{'x'.join(map(str, sorted(shape)))}")


def parse_target(text: str) -> Target:
    """Return the target with a name such as `v5e:2x4`, `h100`, `h100:8` or `cpu`.

    Raises:
      UsageError: if the chip is unknown, or the slice shape or the number of GPUs is impossible.

    >>> parse_target("v5p:2x2x2").count, parse_target("h100").kind
    (8, 'NVIDIA H100 80GB HBM3')
    """
    name = text.strip()
    chip, colon, size = name.partition(":")
    if chip not in CHIPS:
        raise unknown_name("target", chip, CHIPS)
    if chip in TPUS:
        return Target(name, chip, "tpu", _slice_shape(name, chip, size))
    if chip == "cpu":
        if colon:
            raise UsageError(
                f"target {shortened(name)!r} gives a number of chips, but the target cpu has no number. Use cpu."
            )
        return Target(name, chip, "cpu", (1,))
    return Target(name, chip, "cuda", (_number_of_gpus(name, chip, size) if colon else 1,))


def _slice_shape(name: str, chip: str, size: str) -> tuple[int, ...]:
    axes = 2 if LARGEST[chip] == 256 else 3
    example = f"{chip}:{'2x4' if axes == 2 else '2x2x2'}"
    if not re.fullmatch(r"\d+(x\d+)*", size):
        raise UsageError(f"target {shortened(name)!r} has no slice shape. Add a shape, as in {example}.")
    shape = tuple(map(int, size.split("x")))
    if len(shape) != axes:
        raise UsageError(
            f"target {shortened(name)!r} needs a slice shape of {axes} axes. Write the shape as in {example}."
        )
    if min(shape) < 1 or any(length > 1 and length % 2 for length in shape):
        raise UsageError(
            f"target {shortened(name)!r} has an invalid axis length. Use 1 or an even number for each axis."
        )
    if math.prod(shape) > LARGEST[chip]:
        raise UsageError(
            f"target {shortened(name)!r} has {math.prod(shape):,} chips. A {chip} slice has at most {LARGEST[chip]:,}."
        )
    return shape


def _number_of_gpus(name: str, chip: str, size: str) -> int:
    if not re.fullmatch(r"\d{1,9}", size) or int(size) < 1:
        raise UsageError(f"target {shortened(name)!r} has no valid number of GPUs. Give a number, as in {chip}:8.")
    count, links = int(size), find_device(GPUS[chip])
    node = links.links.node if links is not None and links.links is not None else 8
    if count > node and count % node:
        above = -(-count // node) * node
        raise UsageError(f"target {name!r} does not use all {node} GPUs of each node. Use {chip}:{above}.")
    if count > MOST_GPUS:
        raise UsageError(f"target {name!r} has too many GPUs: {count:,}. Use at most {MOST_GPUS:,}.")
    return count


def parse_targets(text: str) -> list[Target]:
    """Return the targets in a list of names that are separated by commas.

    Raises:
      UsageError: if the list is empty, or `parse_target` rejects a name.

    >>> [target.count for target in parse_targets("v5e:2x4,h100:16,cpu")]
    [8, 16, 1]
    """
    names = [name for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"no target given: {text!r}. Give one or more targets, such as v5e:2x4,h100:8.")
    return [parse_target(name) for name in names]


def check_installed(target: Target) -> None:
    """Check that the compiler of a target is installed.

    Raises:
      UsageError: if the compiler is missing. The message has the command that installs the compiler.
    """
    if target.platform == "tpu":
        pin = _pin_of_libtpu()
        if importlib.util.find_spec("libtpu") is None:
            raise UsageError(f"target {target.name} needs the TPU compiler. Run: pip install '{pin}'")
        wanted, found = pin.partition("==")[2].rstrip(".*"), metadata.version("libtpu")
        if wanted and not found.startswith(wanted):
            raise UsageError(f"libtpu {found} does not match jax {metadata.version('jax')}. Run: pip install '{pin}'")
    elif target.platform == "cuda":
        version = metadata.version("jaxlib")
        if not any(_has_module(f"jax_plugins.xla_cuda{major}") for major in (12, 13)):
            raise UsageError(
                f"target {target.name} needs JAX's GPU compiler. "
                f"Run: pip install jax-cuda13-plugin=={version} jax-cuda13-pjrt=={version} nvidia-cuda-nvcc"
            )
        if not has_ptxas():
            raise UsageError(f"target {target.name} needs NVIDIA's assembler ptxas. Run: pip install nvidia-cuda-nvcc")


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def has_ptxas() -> bool:
    """Return whether NVIDIA's assembler `ptxas` is on the `PATH` or in an installed Python package of NVIDIA."""
    if shutil.which("ptxas") is not None:
        return True
    folders = [Path(path) / "nvidia" for path in sys.path if path]
    return any(next(folder.glob("*/bin/ptxas"), None) is not None for folder in folders)


def _pin_of_libtpu() -> str:
    """Return the requirement of libtpu in the metadata of the installed jax, such as "libtpu==0.0.50.*"."""
    for requirement in metadata.requires("jax") or ():
        name = requirement.partition(";")[0].strip()
        if name.startswith("libtpu"):
            return name
    return "libtpu"


def environment(target: Target) -> Mapping[str, str]:
    """Return the environment variables that a process needs, before JAX starts, to compile for a target."""
    variables = {
        "JAX_PLATFORMS": "cpu",  # compiling for a topology needs no TPU or GPU backend
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # a cached program would have no compile time
    }
    if target.platform == "cpu":
        return variables
    # `startup.settle` adds options for CPUs. Compilers for TPUs and GPUs end the process if they do not know an option.
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if flag not in XLA_OPTIONS]
    variables["XLA_FLAGS"] = " ".join(flags)
    return {**variables, **TPU_ENVIRONMENT} if target.platform == "tpu" else variables


def topology_devices(target: Target) -> list[Any]:
    """Return JAX devices that stand for the chips of a target, which this machine may lack.

    The process must have the environment variables that `environment` returns.
    """
    import jax
    from jax.experimental import topologies

    if target.platform == "cpu":
        return jax.local_devices(backend="cpu")[:1]
    if target.platform == "cuda":
        node = min(target.count, target.links.node if target.links is not None else target.count)
        text, layout = GPU_CONFIGS[target.chip].text(), f"1x{target.count // node}x{node}"
        return topologies.get_topology_desc(platform="cuda", target_config=text, topology=layout).devices
    # A host has 2x2 chips. libtpu before 0.0.50 must be told that a smaller slice is a part of one host.
    bounds = (*(min(2, length) for length in target.shape[:2]), 1)
    # The two cores of a v4 chip work as one device.
    extra = {"chip_config_name": "megacore"} if target.chip == "v4" else {}
    return topologies.get_topology_desc(
        platform="tpu", topology_name=target.name, chips_per_host_bounds=bounds, **extra
    ).devices
