"""Devices that are not there, and how to compile for them.

TPUs need libtpu (`jax[tpu]` names its version), and GPUs `jax-cuda13-plugin`, `jax-cuda13-pjrt` and
`nvidia-cuda-nvcc`, all from PyPI.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

# GpuTargetConfigProto of XLA, with the numbers of its file for the H100 SXM.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # processes that only compile do not compete for a TPU
}


def prepare() -> None:
    """Set the environment that both compilers need. Call it before JAX is imported."""
    os.environ.update(TPU_ENVIRONMENT, JAX_PLATFORMS="cpu")
    nvidia = importlib.util.find_spec("nvidia")
    for place in nvidia.submodule_search_locations or () if nvidia else ():
        toolkit = Path(place) / "cu13"
        if (toolkit / "bin" / "ptxas").exists():
            os.environ["PATH"] = f"{toolkit / 'bin'}{os.pathsep}{os.environ['PATH']}"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_cuda_data_dir={toolkit}"


def devices(name: str) -> tuple[list[Any], dict[str, str]]:
    """Return the devices of "v5e:2x4" or "h100:8", and the compiler's options.

    TPU programs are compiled at level O1, which takes a tenth of the time of the default level.
    """
    from jax.experimental import topologies

    kind, _, size = name.partition(":")
    if kind == "h100":
        return topologies.get_topology_desc(platform="cuda", target_config=H100, topology=f"1x1x{size}").devices, {}
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices, {"optimization_level": "O1"}
