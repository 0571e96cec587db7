"""Peak performance of GPUs and TPUs from their data sheets: arithmetic, memory, and links between devices.

Sources:

- [docs] Google Cloud documentation of TPU v4, v5e, v5p and v6e (cloud.google.com/tpu/docs): peak compute, HBM
  bandwidth and interchip interconnect (ICI) bandwidth of a chip.
- [libtpu] The TPU compiler of libtpu 0.0.50: its out-of-memory errors state the memory that a program can use.
- [xla] OpenXLA, xla/backends/gpu/target_config/specs/*.txtpb: memory and memory bandwidth of GPUs, as the driver
  reports them.
- [nvidia] Data sheets of NVIDIA V100, T4, A10, A100, L4, L40S, H100, H200 and B200, for dense arithmetic (without
  sparsity). The data sheets add both directions of NVLink, so this file has half of the stated bandwidth.
- [dgx] User guides of NVIDIA DGX A100, H100, H200 and B200: network bandwidth of each GPU.
- [jouppi] Jouppi et al., TPU v4, ISCA 2023: six links of 50 GB/s in each direction.
- [book] Austin et al., How to Scale Your Model, 2025 (jax-ml.github.io/scaling-book): about 1 microsecond for a hop
  between TPU chips, and the shapes of slices whose axes are rings.
- [cost] OpenXLA, xla/service/gpu/model/gpu_performance_model_base.h: 5 microseconds to launch an NCCL collective.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GIB = 2**30


@dataclass(frozen=True)
class Peak:
    """Peak performance of one device.

    Attributes:
      flops: floating-point operations per second; a multiply-add is two operations.
      source: "data sheet", or "measured" for a device that is not in `PEAKS`.
      arithmetic: number format of the multiplications, such as "bf16"; "tf32" for float32 on NVIDIA tensor cores.

    >>> peak = Peak(flops=197e12, source="data sheet", arithmetic="bf16")
    >>> f"{12.3e12 / peak.flops:.1%} of the peak"
    '6.2% of the peak'
    """

    flops: float
    source: str
    arithmetic: str


@dataclass(frozen=True)
class Links:
    """Links between devices of the same kind, which are connected as a torus or by a switch.

    Attributes:
      bandwidth: bytes per second in one direction, of one link of a torus or of one device's connection to the switch.
      axes: number of axes of the torus; 0 for devices that a switch connects.
      ring: an axis of the torus is a ring if its length is a multiple of `ring`, and a line otherwise.
      node: number of devices that one switch connects.
      network: network bandwidth between nodes, in bytes per second in one direction for each device.
      latency: seconds that a collective operation takes besides the transfer of data. On a torus, each hop
        takes this time. Devices that a switch connects need this time once per operation.
      source: marks, such as "[docs]", of the sources in the module docstring.
    """

    bandwidth: float
    latency: float
    source: str
    axes: int = 0
    ring: int = 1
    node: int = 1
    network: float = 0.0


@dataclass(frozen=True)
class Device:
    """Performance, memory and links of a kind of device, from its data sheet.

    Attributes:
      peaks: peak TFLOP/s by number format; "16" means bfloat16 and float16.
      source: marks, such as "[docs]", of the sources of peaks, memory and bandwidth in the module docstring.
      memory: bytes of device memory that programs can use.
      bandwidth: bytes per second between memory and chip.
      tile: (rows, columns) of a memory tile of 32-bit values; arrays in memory are padded to whole tiles.
      links: links between devices of this kind, or None if they are unknown.
    """

    peaks: Mapping[str, float] = field(hash=False)
    source: str
    memory: int | None = None
    bandwidth: float | None = None
    tile: tuple[int, int] | None = None
    links: Links | None = None


def _ici(gigabytes: float, axes: int, ring: int, source: str) -> Links:
    return Links(gigabytes * 1e9, 1e-6, f"{source} [book]", axes=axes, ring=ring)


def _nvlink(gigabytes: float, network_gigabits: float) -> Links:
    return Links(gigabytes * 1e9, 5e-6, "[nvidia] [dgx] [cost]", node=8, network=network_gigabits / 8 * 1e9)


_TPU: Any = {"source": "[docs] [libtpu]", "tile": (8, 128)}
_GPU: Any = {"source": "[nvidia] [xla]"}
_HOPPER = {"16": 989.4, "tf32": 494.7, "f32": 67}

# The keys are prefixes of `device.device_kind`. The longest prefix that matches a device wins.
DEVICES: dict[str, Device] = {
    "NVIDIA B200": Device(
        {"16": 2250, "tf32": 1125, "f32": 75},
        **_GPU,
        memory=191_514_411_008,
        bandwidth=7.672e12,
        links=_nvlink(900, 400),
    ),
    "NVIDIA GH200": Device(_HOPPER, "[nvidia]"),
    "NVIDIA H200": Device(_HOPPER, **_GPU, memory=151_397_597_184, bandwidth=4.8e12, links=_nvlink(450, 400)),
    "NVIDIA H100 80GB HBM3": Device(
        _HOPPER, **_GPU, memory=84_942_979_072, bandwidth=3.352e12, links=_nvlink(450, 400)
    ),
    "NVIDIA H100 PCIe": Device({"16": 756, "tf32": 378, "f32": 51}, "[nvidia]"),
    "NVIDIA H100 NVL": Device({"16": 835, "tf32": 417, "f32": 60}, "[nvidia]"),
    "NVIDIA A100": Device({"16": 312, "tf32": 156, "f32": 19.5}, "[nvidia]"),
    "NVIDIA A100-SXM4-80GB": Device(
        {"16": 312, "tf32": 156, "f32": 19.5},
        **_GPU,
        memory=85_100_068_864,
        bandwidth=2.039e12,
        links=_nvlink(300, 200),
    ),
    "NVIDIA L40S": Device({"16": 362, "tf32": 183, "f32": 91.6}, "[nvidia]"),
    "NVIDIA L4": Device({"16": 121, "tf32": 60, "f32": 30.3}, "[nvidia]"),
    "NVIDIA A10": Device({"16": 125, "tf32": 62.5, "f32": 31.2}, "[nvidia]"),
    "NVIDIA A10G": Device({"16": 70, "tf32": 35, "f32": 31.2}, "[nvidia]"),
    "Tesla V100-SXM2": Device({"float16": 125, "f32": 15.7}, "[nvidia]"),
    "Tesla V100-PCIE": Device({"float16": 112, "f32": 14}, "[nvidia]"),
    "Tesla T4": Device({"float16": 65, "f32": 8.1}, "[nvidia]"),
    "TPU v3": Device({"16": 61.5}, "[docs]; a device is one of the two cores of a chip"),
    "TPU v4": Device(
        {"16": 275}, **_TPU, memory=int(30.75 * GIB), bandwidth=1.2e12, links=_ici(50, 3, 4, "[docs] [jouppi]")
    ),
    "TPU v5 lite": Device(
        {"16": 197}, **_TPU, memory=int(15.75 * GIB), bandwidth=8.19e11, links=_ici(50, 2, 16, "[docs]")
    ),
    "TPU v5": Device({"16": 459}, **_TPU, memory=int(95.73 * GIB), bandwidth=2.765e12, links=_ici(100, 3, 4, "[docs]")),
    "TPU v5p": Device(
        {"16": 459}, **_TPU, memory=int(95.73 * GIB), bandwidth=2.765e12, links=_ici(100, 3, 4, "[docs]")
    ),
    "TPU v6 lite": Device(
        {"16": 918}, **_TPU, memory=int(31.24 * GIB), bandwidth=1.6e12, links=_ici(100, 2, 16, "[docs]")
    ),
}

PEAKS: dict[str, Mapping[str, float]] = {kind: device.peaks for kind, device in DEVICES.items()}
"""Peak TFLOP/s by prefix of `device.device_kind`, then by number format."""


def find_device(kind: str) -> Device | None:
    """Return the entry of `DEVICES` for a device kind (`device.device_kind`), or None if there is no entry.

    >>> find_device("TPU v5 lite").bandwidth
    819000000000.0
    """
    names = [name for name in DEVICES if kind.startswith(name)]
    return DEVICES[max(names, key=len)] if names else None


def look_up(kind: str, dtype: str, precision: str | None = None) -> Peak | None:
    """Return the peak performance of a kind of device from its data sheet, or None if `DEVICES` has no entry.

    Args:
      kind: JAX's name of the device, `device.device_kind`.
      dtype: compute dtype: "float32", "bfloat16" or "float16".
      precision: value of `jax_default_matmul_precision`. "highest" and "float32" select full float32 arithmetic. With
        other values, accelerators round the inputs of float32 products to a shorter format.

    >>> look_up("NVIDIA H100 80GB HBM3", "bfloat16")
    Peak(flops=989400000000000.0, source='data sheet', arithmetic='bf16')
    """
    device = find_device(kind)
    if device is None:
        return None
    if dtype != "float32":
        formats = (dtype, "16")
    elif precision in ("highest", "float32"):
        formats = ("f32",)
    elif kind.startswith("TPU"):
        formats = ("tf32", "16")
    else:
        formats = ("tf32", "f32")
    labels = {"16": "f16" if dtype == "float16" else "bf16", "float16": "f16"}
    for name in formats:
        if name in device.peaks:
            return Peak(device.peaks[name] * 1e12, "data sheet", labels.get(name, name))
    return None
