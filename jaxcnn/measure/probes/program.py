"""Build the compiled step of a case with the functions that training uses, and random images as its arguments."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from jaxcnn.analysis import summarize
from jaxcnn.data import Padded, normalize
from jaxcnn.errors import UsageError
from jaxcnn.measure.case import Case
from jaxcnn.train import (
    Classification,
    OptimizerConfig,
    create_state,
    make_eval_step,
    make_optimizer,
    make_parallel,
    make_train_step,
)

OPTIMIZER = OptimizerConfig("momentum", learning_rate=1e-3, momentum=0.9, weight_decay=0.0)


@dataclass(frozen=True)
class Program:
    """A compiled step and its arguments.

    Attributes:
      compiled: the compiled step. A training step maps `(state, batch)` to `(state, metrics)` and donates the state.
      args: the arguments of the step, state and batch, as arrays on the devices.
      trace_seconds: seconds to trace and lower the step.
      compile_seconds: seconds of XLA compilation.
    """

    compiled: Any
    args: tuple[Any, ...]
    trace_seconds: float
    compile_seconds: float


def build_model(case: Case) -> nn.Module:
    return case.create_model(dtype=None if case.dtype == "float32" else case.dtype)


def choose_devices(count: int | None) -> list[Any]:
    """Return the first `count` local devices, or all local devices if `count` is None.

    Raises:
      UsageError: if this process has fewer than `count` devices.
    """
    devices = jax.local_devices()
    if count is not None and count > len(devices):
        available = f"{len(devices)} {devices[0].device_kind} device(s)"
        raise UsageError(
            f"the number of devices is more than available: {count}. Give at most {len(devices)}; found {available}."
        )
    return devices[:count]


def build(case: Case, model: nn.Module | None = None) -> Program:
    """Trace and compile the step of a case, and place its arguments on the devices.

    Args:
      case: the case to build.
      model: a model to use instead of the model that the case names.

    Raises:
      UsageError: if the case cannot run on the available devices.
    """
    parallel = make_parallel(case.parallel, choose_devices(case.devices))
    if case.batch_size % len(parallel.devices):
        raise UsageError(
            f"batch size is not divisible by {len(parallel.devices)} devices: {case.batch_size}. "
            f"Give a multiple of {len(parallel.devices)}."
        )
    model = build_model(case) if model is None else model
    optimizer = make_optimizer(OPTIMIZER, optax.constant_schedule(OPTIMIZER.learning_rate))
    state = parallel.place_state(create_state(model, optimizer, case.image_shape, seed=0))
    batch = parallel.place_batch(random_batch(case, getattr(model, "num_classes", 10)))

    started = time.perf_counter()
    lowered = make_step(case, model, optimizer, parallel).lower(state, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - traced
    # The batch stays on the devices, so that the timing covers the step only. `benchmarks.input` measures input
    # pipelines.
    args = jax.device_put((state, batch), compiled.input_shardings[0])
    return Program(compiled, args, traced - started, compile_seconds)


def random_batch(case: Case, num_classes: int) -> Any:
    """Return random uint8 images and int32 labels for one call of the program: `steps_per_dispatch` batches."""
    count = case.batch_size * case.steps_per_dispatch
    generator = np.random.default_rng(0)
    batch = {
        "image": generator.integers(0, 256, (count, *case.image_shape), np.uint8),
        "label": generator.integers(0, num_classes, count).astype(np.int32),
    }
    if case.mode == "infer":
        return Padded(batch, np.ones(count, bool))
    return batch


def make_step(case: Case, model: nn.Module, optimizer: optax.GradientTransformation, parallel: Any) -> Any:
    """Return the step of a case, distributed by `parallel` and ready to be lowered."""
    pixels = partial(normalize, mean=(0.5,) * case.image_shape[2], std=(0.25,) * case.image_shape[2])
    if case.mode == "infer":
        step = make_eval_step(model, Classification(normalize=pixels))
        return parallel.compile(step, donate_state=False)
    step = make_train_step(model, optimizer, Classification(normalize=pixels))
    if case.steps_per_dispatch > 1:
        step = several_steps(step, case.steps_per_dispatch)
    return parallel.compile(step, donate_state=True)


def several_steps(step: Any, count: int) -> Any:
    """Return a function that runs `count` steps on a batch that is `count` times as large, and sums their metrics."""

    def steps(state: Any, batch: Any) -> Any:
        # Step number s uses the examples i with i % count == s, so that every example stays on its device.
        batches = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)
        state, sums = jax.lax.scan(step, state, batches)
        return state, jax.tree.map(lambda x: x.sum(0), sums)

    return steps


def step_flops(case: Case) -> int:
    """Return the floating-point operations of a step, counting only convolutions and dot products.

    By the usual convention, a multiply-add is two operations, and a training step costs three forward passes. The
    gradients of inputs and the gradients of kernels cost one forward pass each. The input gradient of the first layer
    is included, although training does not compute this gradient.
    """
    train = case.mode == "train"
    macs = summarize(build_model(case), case.image_shape, train=train).macs
    return 2 * macs * case.batch_size * (3 if train else 1)
