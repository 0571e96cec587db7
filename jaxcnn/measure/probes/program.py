"""The compiled step of a case and what it is called with: the same parts that training uses, on random images."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from jaxcnn.analysis import summarize
from jaxcnn.data import normalize
from jaxcnn.errors import UsageError
from jaxcnn.measure.case import Case
from jaxcnn.models import create_model
from jaxcnn.train import OptimizerConfig, create_state, make_eval_step, make_optimizer, make_parallel, make_train_step

OPTIMIZER = OptimizerConfig("momentum", learning_rate=1e-3, momentum=0.9, weight_decay=0.0)


@dataclass(frozen=True)
class Program:
    """A compiled step, ready to be called.

    Attributes:
      compiled: the program; in training `(state, batch) -> (state, metrics)`, which consumes its state.
      args: state and batch, on the devices.
      trace_seconds: Python and lowering, before XLA saw anything.
      compile_seconds: XLA's part.
    """

    compiled: Any
    args: tuple[Any, ...]
    trace_seconds: float
    compile_seconds: float


def build_model(case: Case) -> nn.Module:
    return create_model(case.model, dtype=None if case.dtype == "float32" else case.dtype)


def choose_devices(count: int | None) -> list[Any]:
    """The first so many local devices, or all.

    Raises:
      UsageError: if there are not as many.
    """
    devices = jax.local_devices()
    if count is not None and count > len(devices):
        raise UsageError(f"devices must be at most {len(devices)}, the {devices[0].device_kind}s here, got {count}")
    return devices[:count]


def build(case: Case, model: nn.Module | None = None) -> Program:
    """Traces, compiles and feeds the step of a case, with a model of one's own in place of the one that it names.

    Raises:
      UsageError: a case that cannot work on the devices there are.
    """
    parallel = make_parallel(case.parallel, choose_devices(case.devices))
    if case.batch_size % len(parallel.devices):
        raise UsageError(f"batch size {case.batch_size} cannot be divided over {len(parallel.devices)} devices")
    model = build_model(case) if model is None else model
    optimizer = make_optimizer(OPTIMIZER, optax.constant_schedule(OPTIMIZER.learning_rate))
    state = parallel.place_state(create_state(model, optimizer, case.image_shape, seed=0))
    batch = parallel.place_batch(random_batch(case, getattr(model, "num_classes", 10)))

    started = time.perf_counter()
    lowered = compilable(case, model, optimizer, parallel).lower(state, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - traced
    # The batch stays on the devices: what is measured is the step. `benchmarks.input` measures its way there.
    args = jax.device_put((state, batch), compiled.input_shardings[0])
    return Program(compiled, args, traced - started, compile_seconds)


def random_batch(case: Case, num_classes: int) -> dict[str, np.ndarray]:
    """uint8 images and labels of as many batches as one call of the program takes."""
    count, generator = case.batch_size * case.steps_per_dispatch, np.random.default_rng(0)
    batch = {
        "images": generator.integers(0, 256, (count, *case.image_shape), np.uint8),
        "labels": generator.integers(0, num_classes, count).astype(np.int32),
    }
    return batch if case.mode == "train" else {**batch, "mask": np.ones(count, bool)}


def compilable(case: Case, model: nn.Module, optimizer: optax.GradientTransformation, parallel: Any) -> Any:
    pixels = partial(normalize, mean=(0.5,) * case.image_shape[2], std=(0.25,) * case.image_shape[2])
    if case.mode == "infer":
        step = make_eval_step(model, normalize=pixels, axis_name=parallel.axis_name)
        return parallel.compile(step, donate_state=False)
    step = make_train_step(model, optimizer, normalize=pixels, axis_name=parallel.axis_name)
    if case.steps_per_dispatch > 1:
        step = several_steps(step, case.steps_per_dispatch)
    return parallel.compile(step, donate_state=True)


def several_steps(step: Any, count: int) -> Any:
    """A function that makes `count` steps, on the parts of a batch that is as many times as large."""

    def steps(state: Any, batch: Any) -> Any:
        # Example i goes to part i % count, so that each device finds all parts of its own share at home.
        parts = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)
        state, sums = jax.lax.scan(step, state, parts)
        return state, jax.tree.map(lambda x: x.sum(0), sums)

    return steps


def step_flops(case: Case) -> int:
    """Floating-point operations of a step by the usual convention: of convolutions and dot products alone.

    A multiply-add is two, and training takes three times the forward pass: the gradients of inputs and of kernels
    are as much work each. (That of the first layer's input is not computed; it counts, as everywhere.)
    """
    train = case.mode == "train"
    macs = summarize(build_model(case), case.image_shape, train=train).macs
    return 2 * macs * case.batch_size * (3 if train else 1)
