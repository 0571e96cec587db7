"""Properties of GPUs that XLA needs to compile for them: the fields of XLA's proto message `GpuTargetConfigProto`.

The values are from OpenXLA's folder xla/backends/gpu/target_config/specs/, which stores the values that drivers report:
a100_sxm_80.txtpb, h100_sxm.txtpb, h200.txtpb and b200.txtpb.
"""

from dataclasses import dataclass

from jaxcnn.hardware import find_device

# The version of cuDNN for which XLA chooses algorithms. This version supports all GPUs in this file.
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
    """A GPU as XLA describes it. The memory and bandwidth of the GPU are in `jaxcnn.hardware`.

    Attributes:
      kind: JAX's name of the device, `device.device_kind`.
      capability: major version of the compute capability.
      cores: number of streaming multiprocessors.
      units: number of 32-bit arithmetic units of each streaming multiprocessor.
      gigahertz: clock rate in GHz.
      l2_cache: size of the L2 cache in bytes.
      shared_per_core: shared memory of each streaming multiprocessor in bytes.
      shared_per_block: largest shared memory in bytes that one thread block can request.
      extension: name of the set of extra instructions that XLA may use beyond the compute capability.
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
        """Return the proto message `GpuTargetConfigProto` of this GPU in the text format of protocol buffers."""
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
