"""Build the compiled step of a case and its arguments, from the functions that training uses and random images."""

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
      compiled: the compiled step. In training: `(state, batch) -> (state, metrics)`, and the state is donated.
      args: state and batch, on the devices.
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
    """Return the first `count` local devices; all of them if `count` is None.

    Raises:
      UsageError: if there are fewer than `count` devices.
    """
    devices = jax.local_devices()
    if count is not None and count > len(devices):
        available = f"{len(devices)} {devices[0].device_kind} device(s)"
        raise UsageError(f"more devices than available: {count}. Give at most {len(devices)}; found {available}.")
    return devices[:count]


def build(case: Case, model: nn.Module | None = None) -> Program:
    """Trace and compile the step of a case, and place its arguments on the devices.

    Args:
      case: the case.
      model: the model to use instead of the one that the case names.

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
    # The batch stays on the devices, so that only the step is timed. `benchmarks.input` measures input pipelines.
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
        # Step s takes the examples i with i % count == s, so that no example moves to another device.
        batches = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)
        state, sums = jax.lax.scan(step, state, batches)
        return state, jax.tree.map(lambda x: x.sum(0), sums)

    return steps


def step_flops(case: Case) -> int:
    """Return the floating-point operations of a step, counting only convolutions and dot products.

    By the usual convention, a multiply-add is two operations and training costs three forward passes: the gradients
    of inputs and of kernels cost one each. The first layer's input gradient is included, although it is not computed.
    """
    train = case.mode == "train"
    macs = summarize(build_model(case), case.image_shape, train=train).macs
    return 2 * macs * case.batch_size * (3 if train else 1)
