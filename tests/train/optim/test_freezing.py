"""Nothing below the lowest trainable layer is computed backward, and old checkpoints of frozen runs fit."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm
from jaxcnn.train import Config, OptimizerConfig, create_state, make_train_step
from jaxcnn.train.config import validate
from jaxcnn.train.gradient import accumulated
from jaxcnn.train.optim.freezing import Freezing, check_expressions, freeze_after


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


def test_parameters_stop_after_their_epochs_and_the_others_go_on():
    params = {"stem": {"kernel": jnp.ones(2), "bias": jnp.ones(1)}, "head": jnp.ones(3)}
    # 2 epochs of 1.5 steps are 3 steps; "stem" also matches the bias, but the first expression counts.
    optimizer = freeze_after(optax.sgd(0.1, momentum=0.9), ("stem/bias=2", "stem=4"), steps_per_epoch=1.5)
    state, moved = optimizer.init(params), []
    for _ in range(8):
        updates, state = jax.jit(optimizer.update)(params, state, params)
        moved.append(jax.tree.map(lambda x: bool((x != 0).all()), updates))
    assert [step["stem"]["bias"] for step in moved] == [True] * 3 + [False] * 5
    assert [step["stem"]["kernel"] for step in moved] == [True] * 6 + [False] * 2
    assert all(step["head"] for step in moved)
    plain = optax.sgd(0.1)
    assert freeze_after(plain, (), steps_per_epoch=1.0) is plain


def test_parameters_may_stop_in_a_network_of_which_a_part_is_frozen_from_the_start():
    freezing = Freezing("stem")
    optimizer = freezing.optimizer(freeze_after(optax.adam(0.1), ("stage1=1",), steps_per_epoch=1.0))
    step = jax.jit(make_train_step(Stack(), optimizer, gradient=freezing.gradient(accumulated(1))))
    states = [create_state(Stack(), optimizer, (8, 8, 1), seed=0)]
    for _ in range(2):
        states.append(step(states[-1], BATCH)[0])

    def moved(before, after, name):
        pairs = zip(jax.tree.leaves(before.params[name]), jax.tree.leaves(after.params[name]), strict=True)
        return any(not np.array_equal(a, b) for a, b in pairs)

    names = ("stem_conv", "stage1_conv", "stage2_conv")
    assert [moved(states[0], states[1], name) for name in names] == [False, True, True]
    assert [moved(states[1], states[2], name) for name in names] == [False, False, True]


@pytest.mark.parametrize("field", ["freeze_after", "weight_decay_scales", "learning_rate_scales"])
def test_expressions_that_match_nothing_or_have_no_number_are_refused(field):
    def config(value):
        if field == "freeze_after":
            return Config(freeze_after=(value,))
        return Config(optimizer=OptimizerConfig(**{field: (value,)}))

    name = field if field == "freeze_after" else f"optimizer.{field}"
    with pytest.raises(UsageError, match=rf"^{name} matches no parameter: unknown module 'steam'; did you mean 'stem'"):
        check_expressions(config("steam=2"), {"stem": np.ones(1), "head": np.ones(1)})
    with pytest.raises(UsageError, match=rf"^{name} must have the form EXPRESSION=(FACTOR|EPOCHS) with a positive"):
        validate(config("stem"))
