"""Report the cost of a compiled training step on each chip of a target."""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import jax

from jaxcnn.analysis import summarize
from jaxcnn.aot import hlo
from jaxcnn.aot.collectives import Transfer, seconds, transfers
from jaxcnn.aot.program import Program, bytes_on_device
from jaxcnn.aot.roofline import roofline
from jaxcnn.aot.targets import Target, parse_target
from jaxcnn.measure.probes.memory import predicted_bytes
from jaxcnn.train.runtime.plan import Plan


@dataclass(frozen=True)
class Memory:
    """Memory that a training step needs on each chip, in bytes.

    Attributes:
      parameters: bytes of the parameters and batch statistics.
      optimizer: bytes of the optimizer's state, including the step number and the random key.
      averages: bytes of the moving averages of parameters and batch statistics.
      batch: bytes of the images and labels of all batches in one call of the compiled program.
      temporaries: bytes of activations, gradients and work space.
      code: bytes of the instructions of the compiled program.
      other: bytes of the outputs of the step that do not replace the state, and of padding of arguments and outputs.
      total: bytes of the total memory, as XLA reports it.
      available: bytes of memory that a program can use on the chip (`Target.memory`); None for a CPU.

    >>> memory = Memory(
    ...     parameters=10**8, optimizer=10**8, averages=0, batch=10**7, temporaries=10**9, code=10**6, other=0,
    ...     total=1_211_000_000, available=16 * 10**9,
    ... )
    >>> memory.fits
    True
    """

    parameters: int
    optimizer: int
    averages: int
    batch: int
    temporaries: int
    code: int
    other: int
    total: int
    available: int | None

    @property
    def fits(self) -> bool:
        """Return whether the step fits the memory of a chip. The result is True for a CPU."""
        return self.available is None or self.total <= self.available


@dataclass(frozen=True)
class Report:
    """The cost of a training step on a target. All numbers are per chip, except where a field is described differently.

    The value of an unknown field is None. If the step was not compiled, all fields after `error` are unknown. On a CPU,
    the times are unknown.

    Attributes:
      target: name of the target, such as "v5e:2x4".
      device: JAX's name of the chip, such as "TPU v5 lite".
      chips: number of chips.
      model: `Config.model`, the name of the model.
      dtype: `Config.dtype`, the compute dtype.
      parallel: how the step is distributed over chips: "shard_map" (also if the configuration says "pmap") or "jit".
      batch_size: number of images in a step, over all chips.
      image_shape: shape `(H, W, C)` of the images.
      compiler: package with the XLA compiler, and its version: jaxlib, libtpu or the GPU plugin.
      error: one line that says why the step was not compiled; None if it was compiled.
      fits: whether the step fits the memory of the chip.
      missing_bytes: number of bytes by which the step exceeds the memory of the chip; 0 if the step fits.
      memory: memory that the step needs, divided into parts. If XLA refuses to compile a step that does not fit, XLA
        states only the total memory. In this case, all memory that is neither state nor batch counts as temporaries.
      model_flops: floating-point operations by the usual convention: 2 x multiply-adds of three forward passes.
      flops: floating-point operations that the step executes, as counted by XLA. XLA has no complete count for
        CPUs, GPUs, gradient accumulation and loops over blocks. In these cases, `flops` counts convolutions and matrix
        products, without taps on padding, the input gradient of the first layer, and recomputation.
      bytes_accessed: bytes that the step reads from and writes to the chip's memory, see `jaxcnn.aot.hlo`.
      xla_bytes_accessed: XLA's own count of the accessed bytes, in which each loop body counts only once; None on GPUs.
      intensity: arithmetic intensity, `flops / bytes_accessed`.
      padding: fraction of the written bytes that is padding to tiles; 0 on GPUs.
      transfers: collective operations by kind and group size, each with its predicted time `seconds`.
      compute_seconds, memory_seconds, network_seconds: lower bounds of the step time by compute, memory and network.
      bound: name of the largest lower bound of the step time: "compute", "memory" or "network".
      step_seconds: lower bound of the step time.
      images_per_second: upper bound of the throughput of all chips.
      mfu: upper bound of the model FLOPs utilization: `model_flops / (step_seconds * peak)`. The value can exceed 1,
        because `model_flops` counts operations that the step does not execute.
      xla_seconds: XLA's own estimate of the step time; None if XLA makes no estimate.
      trace_seconds: time on this machine to trace and lower the step.
      compile_seconds: time on this machine to compile the lowered step.
      compile_cpu_seconds: CPU time of all threads during the compilation. This time does not depend on other work on
        the machine.
      tried: trials of `batch_size="auto"`, as pairs (batch size per chip, whether this batch size fits).

    >>> report = Report("v5e:2x4", "TPU v5 lite", 8, "resnet50", "bfloat16", "shard_map", 1024, (224, 224, 3))
    >>> report.batch_per_chip
    128
    """

    target: str
    device: str
    chips: int
    model: str
    dtype: str
    parallel: str
    batch_size: int | None
    image_shape: tuple[int, ...]
    compiler: str = ""
    error: str | None = None
    fits: bool | None = None
    missing_bytes: int | None = None
    memory: Memory | None = None
    model_flops: float | None = None
    flops: float | None = None
    bytes_accessed: float | None = None
    xla_bytes_accessed: float | None = None
    intensity: float | None = None
    padding: float | None = None
    transfers: tuple[dict[str, Any], ...] | None = None
    compute_seconds: float | None = None
    memory_seconds: float | None = None
    network_seconds: float | None = None
    bound: str | None = None
    step_seconds: float | None = None
    images_per_second: float | None = None
    mfu: float | None = None
    xla_seconds: float | None = None
    trace_seconds: float | None = None
    compile_seconds: float | None = None
    compile_cpu_seconds: float | None = None
    tried: tuple[tuple[int, bool], ...] = field(default=())

    @property
    def batch_per_chip(self) -> int | None:
        """Return the number of images per chip in a step, or None if the batch size is unknown."""
        return None if self.batch_size is None else self.batch_size // self.chips

    @property
    def collectives(self) -> list[Transfer]:
        """The collective operations of a step, one `Transfer` for each kind and group size."""
        names = [f.name for f in dataclasses.fields(Transfer)]
        return [Transfer(**{name: entry[name] for name in names}) for entry in self.transfers or ()]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dict of JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Report":
        """Return the report from which `to_dict` made the dict `values`."""
        memory = values.get("memory")
        changed = {
            "memory": None if memory is None else Memory(**memory),
            "image_shape": tuple(values["image_shape"]),
            "transfers": None if values.get("transfers") is None else tuple(values["transfers"]),
            "tried": tuple((size, fits) for size, fits in values.get("tried", ())),
        }
        return Report(**{**values, **changed})


def describe(target: Target, plan: Plan) -> Report:
    """Return the report of a training step that is not compiled yet, with the fields that are already known."""
    return Report(
        target=target.name,
        device=target.kind,
        chips=target.count,
        model=plan.config.model,
        dtype=plan.config.dtype,
        parallel=plan.parallel.name,
        batch_size=plan.batch_size,
        image_shape=tuple(plan.pipeline.image_shape),
        compiler=_compiler(target),
    )


def measure(target: Target, program: Program) -> Report:
    """Return the report of a compiled step."""
    plan, compiled = program.plan, program.compiled
    steps = plan.config.steps_per_dispatch
    module = hlo.parse(compiled.as_text(), spaces=hlo.TPU_MEMORY if target.platform == "tpu" else None)
    memory = memory_of(target, program)
    by_xla = compiled.cost_analysis() or {}  # None for a GPU that this machine lacks
    counted = by_xla.get("flops", 0.0)
    # XLA counts the body of a loop once. The count of the loop over `steps_per_dispatch` is thus that of one step.
    has_inner_loops = plan.accumulate > 1 or getattr(plan.model, "scan_blocks", False)
    is_counted = counted > 0 and not has_inner_loops and target.platform != "cpu"
    images = plan.batch_size / len(plan.parallel.devices)
    flops = counted if is_counted else convolution_flops(plan) * images
    bytes_accessed = module.bytes_accessed() / steps
    found = transfers(module, target.count, steps)
    report = dataclasses.replace(
        describe(target, plan),
        fits=memory.fits,
        missing_bytes=0 if memory.available is None else max(0, memory.total - memory.available),
        memory=memory,
        model_flops=_model_flops(plan) * images,
        flops=flops,
        bytes_accessed=bytes_accessed,
        xla_bytes_accessed=by_xla.get("bytes accessed"),
        intensity=flops / bytes_accessed,
        padding=module.padding(),
        transfers=tuple({**vars(transfer), "seconds": seconds(transfer, target)} for transfer in found),
        xla_seconds=_positive(by_xla.get("optimal_seconds")),
        trace_seconds=program.trace_seconds,
        compile_seconds=program.compile_seconds,
        compile_cpu_seconds=program.compile_cpu_seconds,
    )
    return with_times(report, target)


def with_times(report: Report, target: Target) -> Report:
    """Return the report with the bounds of the step time on `target`, which has the same kind of chip as the report."""
    if report.flops is None or report.bytes_accessed is None or report.model_flops is None:
        return report
    roof = roofline(target, report.dtype, report.flops, report.bytes_accessed, report.collectives)
    if roof is None:
        return report
    return dataclasses.replace(
        report,
        compute_seconds=roof.compute,
        memory_seconds=roof.memory,
        network_seconds=roof.network,
        bound=roof.bound,
        step_seconds=roof.step,
        images_per_second=(report.batch_size or 0) / roof.step,
        mfu=report.model_flops / (roof.step * roof.peak_flops),
    )


def memory_of(target: Target, program: Program) -> Memory:
    """Return the memory of a step on each chip, from XLA's memory analysis and the shapes of the state."""
    stats, state = program.compiled.memory_analysis(), _memory_of_state(program.plan)
    code, temporaries = stats.generated_code_size_in_bytes, stats.temp_size_in_bytes
    total = predicted_bytes(program.compiled) or 0
    other = total - sum(state) - temporaries - code
    return Memory(*state, temporaries, code, other, total, target.memory)


def _memory_of_state(plan: Plan) -> tuple[int, int, int, int]:
    """Return the bytes of parameters, optimizer state, averages and batch on each chip, without padding."""
    template, parallel = plan.template, plan.parallel

    def size(tree: Any) -> int:
        return bytes_on_device(tree, parallel.state_sharding(tree))

    examples = plan.batch_size * plan.config.steps_per_dispatch // len(parallel.devices)
    return (
        size((template.params, template.batch_stats)),
        size((template.step, template.opt_state, template.key)),
        size(template.ema),
        examples * sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(plan.example)),
    )


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NEEDED = re.compile(r"(?:\(|Used )(\d+(?:\.\d+)?)([KMGT]?)\)?(?: exceeds| of )")


def out_of_memory(target: Target, plan: Plan, message: str) -> Report:
    """Return the report of a training step that the compiler refuses because the step does not fit the memory.

    Args:
      target: the target of the compilation.
      plan: the parts of the training run, from `plan_of`.
      message: error message of the compiler, which states the memory that the step needs.
    """
    found, available = _NEEDED.search(message), target.memory
    if found is None or available is None:
        return dataclasses.replace(describe(target, plan), fits=False)
    total = round(float(found[1]) * _UNITS[found[2]])
    state = _memory_of_state(plan)
    memory = Memory(*state, temporaries=total - sum(state), code=0, other=0, total=total, available=available)
    missing = max(1, total - available)
    return dataclasses.replace(describe(target, plan), fits=False, missing_bytes=missing, memory=memory)


def failed(target_name: str, like: Mapping[str, Any], error: str) -> Report:
    """Return the report of a training step that could not be compiled.

    Args:
      target_name: name of the target, such as "v5e:2x4".
      like: known fields of the report: `model`, `dtype`, `parallel`, `batch_size` and `image_shape`.
      error: one line that says why the step could not be compiled.
    """
    target = parse_target(target_name)
    return Report(
        target=target.name,
        device=target.kind,
        chips=target.count,
        compiler=_compiler(target),
        error=error,
        **like,
    )


def _model_flops(plan: Plan) -> float:
    """Return the floating-point operations of a training step per image, with the convention of `jaxcnn.measure`."""
    return 3 * 2 * summarize(plan.model, plan.pipeline.image_shape, train=True).macs


def convolution_flops(plan: Plan) -> float:
    """Return the floating-point operations of convolutions and matrix products in a training step, per image.

    The output, the kernel gradient and the input gradient of a layer need the same number of multiply-adds. The first
    layer needs no input gradient. Multiplications by the zeros of the padding do not count.
    """
    summary = summarize(plan.model, plan.pipeline.image_shape, train=True, count_padding=False)
    first = next((row.macs for row in summary.rows if row.macs), 0)
    return 2 * (3 * summary.macs - first)


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def _compiler(target: Target) -> str:
    packages = {"tpu": ("libtpu",), "cuda": ("jax-cuda13-plugin", "jax-cuda12-plugin"), "cpu": ()}[target.platform]
    for name in (*packages, "jaxlib"):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return ""
