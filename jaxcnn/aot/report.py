"""The cost of a compiled step on each chip of a target."""

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
    """Bytes of a chip's memory that a step needs.

    Attributes:
      parameters: parameters and batch statistics.
      optimizer: the optimizer's state, with the step number and the random key.
      averages: moving averages of parameters and statistics.
      batch: images and labels of the batches of a call.
      temporaries: activations, gradients and work space.
      code: the program.
      other: results that do not replace the state, and padding of arguments and results.
      total: all of them, as XLA counts them.
      available: bytes that a program can use on the chip (`Target.memory`); None for a CPU.

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
        """Return whether the step fits the memory of a chip; True for a CPU."""
        return self.available is None or self.total <= self.available


@dataclass(frozen=True)
class Report:
    """The cost of a training step on a target, for each chip unless the field says otherwise.

    A field is None if it is unknown: all after `error` if the step was not compiled, and times on a CPU.

    Attributes:
      target: name of the target.
      device: kind of the chips.
      chips: number of chips.
      model, dtype: of the configuration.
      parallel: strategy that was compiled: "shard_map" stands for "pmap".
      batch_size: images of a step, over all chips.
      image_shape: `(H, W, C)`.
      compiler: version of XLA's compiler: of jaxlib, libtpu or the GPU plugin.
      error: why there is no result, in one line.
      fits: whether the step fits the chip's memory.
      missing_bytes: bytes by which it does not fit; 0 if it does.
      memory: the parts of the memory. If XLA refused to compile because they do not fit, it states the total only: what
        is neither state nor batch then counts as temporaries.
      model_flops: floating-point operations by the usual convention, three forward passes of multiply-adds.
      flops: operations that the step makes, as XLA counts them. Where it does not (GPUs, accumulation, loops over
        blocks), those of convolutions and matrix products, without taps on padding, without the first layer's input
        gradient, and without recomputation.
      bytes_accessed: bytes read from and written to the chip's memory, see `jaxcnn.aot.hlo`.
      xla_bytes_accessed: the same as XLA counts it, with the body of each loop once; None on GPUs.
      intensity: `flops / bytes_accessed`.
      padding: fraction of the written bytes that is padding to tiles; 0 on GPUs.
      transfers: collective operations by kind and size of group, with their predicted `seconds`.
      compute_seconds, memory_seconds, network_seconds: the three bounds of the step time.
      bound: the largest of them: "compute", "memory" or "network".
      step_seconds: lower bound of the step time.
      images_per_second: upper bound of the throughput of all chips.
      mfu: model FLOPs utilization at the bound: `model_flops / (step_seconds * peak)`. It exceeds 1 by the operations
        that the convention counts and the step does not make.
      xla_seconds: XLA's own estimate of the step time, where it makes one.
      trace_seconds, compile_seconds: time to trace and lower, and to compile, on this machine.
      compile_cpu_seconds: CPU time of all threads while compiling. Other work on the machine does not lengthen it.
      tried: batch sizes that were compiled for `batch_size="auto"`, and whether they fit.

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
        """Return the number of images of a step on each chip, or None if the batch size is unknown."""
        return None if self.batch_size is None else self.batch_size // self.chips

    @property
    def collectives(self) -> list[Transfer]:
        """The collective operations of a step."""
        names = [f.name for f in dataclasses.fields(Transfer)]
        return [Transfer(**{name: entry[name] for name in names}) for entry in self.transfers or ()]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON value."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Report":
        """Return the report that `to_dict` wrote."""
        memory = values.get("memory")
        changed = {
            "memory": None if memory is None else Memory(**memory),
            "image_shape": tuple(values["image_shape"]),
            "transfers": None if values.get("transfers") is None else tuple(values["transfers"]),
            "tried": tuple((size, fits) for size, fits in values.get("tried", ())),
        }
        return Report(**{**values, **changed})


def describe(target: Target, plan: Plan) -> Report:
    """Return the report of a step that has not been compiled."""
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
    by_xla = compiled.cost_analysis() or {}  # None for a GPU that is not there
    counted = by_xla.get("flops", 0.0)
    # XLA counts the body of a loop once. The loop over the steps of a call then has the count of one step.
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
    """Return the report with the times of a target that has the same chips: the bounds of the step time."""
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
    """Return the parts of a chip's memory, from XLA's analysis and the shapes of the state."""
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
    """Return the report of a step that the compiler refuses because it does not fit the chip's memory.

    Args:
      target: the target that the step was compiled for.
      plan: the parts of the run.
      message: the compiler's error, which states the bytes that the step needs.
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
    """Return the report of a step that could not be compiled.

    Args:
      target_name: name of the target.
      like: fields of the report that are known: `model`, `dtype`, `parallel`, `batch_size` and `image_shape`.
      error: why, in one line.
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
    """Return the operations of a training step for one image, as `jaxcnn.measure` counts them."""
    return 3 * 2 * summarize(plan.model, plan.pipeline.image_shape, train=True).macs


def convolution_flops(plan: Plan) -> float:
    """Return the operations that convolutions and matrix products of a training step make for one image.

    Each layer has an output, a kernel gradient and an input gradient of the same number of multiply-adds. The first
    layer has no input gradient. Multiplications by the zeros of the padding do not count.
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
