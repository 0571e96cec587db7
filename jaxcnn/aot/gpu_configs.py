"""Properties of GPUs that XLA needs to compile for them: the fields of its message `GpuTargetConfigProto`.

The values are those that drivers report, from OpenXLA's xla/backends/gpu/target_config/specs/: a100_sxm_80.txtpb,
h100_sxm.txtpb, h200.txtpb and b200.txtpb.
"""

from dataclasses import dataclass

from jaxcnn.hardware import find_device

# The version of cuDNN that XLA chooses algorithms for. Each supports all of these GPUs.
CUDNN = (9, 10, 0)

_TEMPLATE = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_per_core}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {l2_cache}
  clock_rate_ghz: {gigahertz}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {shared_per_block}
  cuda_compute_capability {{ major: {capability} feature_extension: {extension} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  dnn_version: "{cudnn}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: {cudnn_major} minor: {cudnn_minor} patch: {cudnn_patch} }}
device_description_str: "{kind}"
"""


@dataclass(frozen=True)
class GpuConfig:
    """A GPU as XLA describes it. Memory and bandwidth are in `jaxcnn.hardware`.

    Attributes:
      kind: JAX's name of the device.
      capability: major version of its compute capability.
      cores: streaming multiprocessors.
      units: 32-bit arithmetic units of a core.
      gigahertz: clock rate.
      l2_cache: bytes of its L2 cache.
      shared_per_core, shared_per_block: bytes of shared memory of a core, and that a block can ask for.
      extension: which instructions beyond those of the compute capability XLA may use.
    """

    kind: str
    capability: int
    cores: int
    units: int
    gigahertz: float
    l2_cache: int
    shared_per_core: int = 233_472
    shared_per_block: int = 232_448
    extension: str = "ACCELERATED_FEATURES"

    def text(self) -> str:
        """Return the message as a text proto."""
        device = find_device(self.kind)
        assert device is not None
        assert device.bandwidth is not None
        major, minor, patch = CUDNN
        return _TEMPLATE.format(
            **vars(self),
            memory=device.memory,
            bandwidth=round(device.bandwidth),
            cudnn=".".join(map(str, CUDNN)),
            cudnn_major=major,
            cudnn_minor=minor,
            cudnn_patch=patch,
        )


GPU_CONFIGS = {
    "a100": GpuConfig("NVIDIA A100-SXM4-80GB", 8, 108, 64, 1.41, 41_943_040, 167_936, 166_912, "NONE"),
    "h100": GpuConfig("NVIDIA H100 80GB HBM3", 9, 132, 128, 1.98, 52_428_800),
    "h200": GpuConfig("NVIDIA H200 141GB HBM3e", 9, 132, 128, 1.98, 52_428_800),
    "b200": GpuConfig("NVIDIA B200", 10, 148, 128, 1.965, 132_644_864),
}
