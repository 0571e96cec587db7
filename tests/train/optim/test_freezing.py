"""Nothing below the lowest trainable layer is computed backward, and old checkpoints of frozen runs fit."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm
from jaxcnn.train import create_state, make_train_step
from jaxcnn.train.gradient import accumulated
from jaxcnn.train.optim.freezing import Freezing


class Stack(nn.Module):
    """Three convolutions and a classifier."""

    @nn.compact
    def __call__(self, x, *, train):
        for name in ("stem", "stage1", "stage2"):
            x = nn.relu(nn.Conv(4, (3, 3), name=f"{name}_conv")(x))
            x = BatchNorm(name=f"{name}_norm")(x, train=train)
        return nn.Dense(3, name="head")(x.mean((1, 2)))


BATCH = {"image": np.ones((4, 8, 8, 1), np.float32), "label": np.array([0, 1, 2, 0])}


def compiled_step(pattern, parts=1):
    """Return a training step with a frozen part, and its first state."""
    freezing = Freezing(pattern)
    optimizer = freezing.optimizer(optax.adam(0.1))
    step = make_train_step(Stack(), optimizer, gradient=freezing.gradient(accumulated(parts)))
    state = create_state(Stack(), optimizer, (8, 8, 1), seed=0)
    return jax.jit(step), state


@pytest.mark.parametrize(
    # Forward: one for each layer. Backward: one for each trainable kernel, and one for the input of each trainable
    # layer above the lowest.
    ("pattern", "convolutions"),
    [("nothing", 3 + 3 + 2), ("stem", 3 + 2 + 1), ("stem|stage1", 3 + 1), ("(?!head)", 3)],
)
def test_the_backward_pass_ends_at_the_lowest_trainable_layer(pattern, convolutions):
    step, state = compiled_step(pattern)
    assert step.lower(state, BATCH).as_text().count("stablehlo.convolution") == convolutions


def test_frozen_parts_are_left_out_of_micro_batches_too():
    step, state = compiled_step("stem|stage1", parts=2)
    after, _ = step(state, BATCH)
    for name, old in {**state.params, **state.batch_stats}.items():
        new = (after.batch_stats if name in state.batch_stats else after.params)[name]
        changed = not all(jax.tree.leaves(jax.tree.map(np.array_equal, old, new)))
        assert changed == (not name.startswith(("stem", "stage1"))), name


def test_patterns_that_freeze_nothing_or_everything_are_refused():
    params = create_state(Stack(), optax.sgd(0.1), (8, 8, 1), seed=0).params
    with pytest.raises(UsageError, match="freeze matches no parameter: unknown module 'hed'; did you mean 'head'"):
        Freezing("hed").check(params)
    with pytest.raises(UsageError, match="freeze '' leaves nothing to train"):
        Freezing("").check(params)
    assert Freezing("head").note(params).startswith("frozen: 15 of ")
