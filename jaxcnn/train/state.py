"""The training state: a pytree of all arrays that a run needs to continue."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxcnn import kernels
from jaxcnn.train.optim.adapters import adapt, evaluation_params


@struct.dataclass
class TrainState:
    """The arrays that a run needs to continue. A checkpoint stores these arrays.

    Attributes:
      step: number of steps made so far, int32 scalar.
      params: the model's parameters.
      batch_stats: running statistics of batch normalization; empty for models without batch normalization.
      opt_state: state of the optimizer, adapted by `optim.adapters`, with the loss scale of float16 training.
      ema: a dict with moving averages of `params` and `batch_stats`, or with their slow copies (`optim.lookahead`).
        Empty if the run has neither moving averages nor slow copies.
      key: raw data of the random key of the run, uint32 `[2]`. Each step derives its own key with `fold_in`, and does
        not change `key`.

    >>> import jaxcnn
    >>> make = lambda: create_state(jaxcnn.create_model("lenet5"), optax.sgd(0.1), (28, 28, 1), seed=0)
    >>> state: TrainState = jax.eval_shape(make)  # computes only shapes and dtypes
    >>> state.step.shape, sorted(state.params)[0]
    ((), 'C1')
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    key: jax.Array


def create_state(
    model: Any,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: int | jax.Array,
    *,
    averaged: bool = False,
    init: Callable[[Any], Any] | None = None,
    init_scale: float | jax.Array = 1.0,
) -> TrainState:
    """Return the training state before the first step, with random parameters that depend on `seed`.

    Args:
      model: a Linen module.
      optimizer: any Optax gradient transformation.
      image_shape: shape `(H, W, C)` of an image.
      seed: seed of all randomness, an integer or an integer array `[]`.
      averaged: whether the state has moving averages, or slow copies, of parameters and batch statistics (`ema`).
      init: function from a dict of random keys to the model's variables. Default: `model.init` on one image of zeros.
      init_scale: factor on the initial kernels (parameters with at least two axes), a number or an array `[]`.

    >>> import flax.linen as nn
    >>> class Linear(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, train):
    ...         return nn.Dense(2)(x.reshape(len(x), -1))
    >>> state = create_state(Linear(), optax.sgd(0.1), (4, 4, 1), seed=0)
    >>> int(state.step), state.params["Dense_0"]["kernel"].shape
    (0, (16, 2))
    """
    # The seed is put on the device explicitly, since the user may have forbidden implicit transfers.
    placed = seed if isinstance(seed, jax.Array) else jax.device_put(np.uint32(seed))
    init_key, run_key = jax.random.split(jax.random.key(placed))
    keys = {"params": init_key, "dropout": init_key}

    # One compiled program creates all arrays, in place of one program per initializer. The program runs only once, so a
    # short compile time matters more than fast code. While JAX traces an outer program, the options of the outer
    # program apply.
    is_within = isinstance(init_key, jax.core.Tracer)
    quick = {"xla_backend_optimization_level": 0} if kernels.on_cpu() and not is_within else None

    @functools.partial(jax.jit, compiler_options=quick)
    def initialize() -> TrainState:
        # `train=True`, since models create auxiliary classifiers only in training.
        make = init or (lambda keys: model.init(keys, jnp.zeros((1, *image_shape)), train=True))
        variables = make(keys)
        params = _scaled_kernels(variables["params"], init_scale)
        learned = {"params": params, "batch_stats": variables.get("batch_stats", {})}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            **learned,
            opt_state=adapt(optimizer).init(params),
            ema=learned if averaged else {},
            key=jax.random.key_data(run_key),
        )

    return initialize()


def _scaled_kernels(params: Any, scale: float | jax.Array) -> Any:
    if isinstance(scale, float) and scale == 1.0:
        return params
    return jax.tree.map(lambda x: scale * x if x.ndim > 1 else x, params)


def evaluation_variables(state: TrainState) -> dict[str, Any]:
    """Return the variables for evaluation and prediction.

    If the state has moving averages or slow copies (`ema`), return the averages or copies. If `ema` is empty, return
    the parameters and batch statistics. For some optimizers, return other parameters; see
    `optim.adapters.evaluation_params`.

    >>> ema = {"params": {"kernel": 0.9}, "batch_stats": {}}
    >>> state = TrainState(jnp.array(3), {"kernel": 1.0}, {}, optax.EmptyState(), ema, jnp.zeros(2, jnp.uint32))
    >>> evaluation_variables(state)["params"]
    {'kernel': 0.9}
    """
    if state.ema:
        return state.ema
    return {"params": evaluation_params(state.opt_state, state.params), "batch_stats": state.batch_stats}
