"""Every optimizer of Optax trains through `fit`, and a resumed run ends with the same bits."""

import dataclasses
import functools
import inspect
import shutil
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm
from jaxcnn.train import Config, create_state, evaluation_variables, fit, make_train_step
from jaxcnn.train.gradient import accumulated, plain
from jaxcnn.train.optim.adapters import SlowWeights, StoredKey
from jaxcnn.train.optim.freezing import Freezing
from jaxcnn.train.optim.mixed_precision import dynamic_loss_scale

pytestmark = pytest.mark.usefixtures("compile_quickly")

RATE = 0.01
CONFIG = Config(steps=4, batch_size=16, augment=(), checkpoint_every=2, progress=False)


class Tiny(nn.Module):
    """A classifier of a few pixels."""

    normalize: bool = False

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(10, name="head")(x[:, ::7, ::7].reshape(len(x), -1))
        return BatchNorm()(x, train=train) if self.normalize else x


# Optimizers that need more than a learning rate, or none.
ALIASES = {
    "adagrad": lambda: optax.adagrad(RATE),
    "adan": lambda: optax.adan(RATE),
    "lbfgs": lambda: optax.lbfgs(memory_size=2),
    "noisy_sgd": lambda: optax.noisy_sgd(RATE, key=0),
    "polyak_sgd": lambda: optax.polyak_sgd(),
    "sgd": lambda: optax.sgd(RATE, momentum=0.9),
    "optimistic_adam_v2": lambda: optax.optimistic_adam_v2(RATE),
}
CONTRIB = {
    "cocob": lambda: contrib.cocob(),
    "dog": lambda: contrib.dog(),
    "dowg": lambda: contrib.dowg(),
    "dpsgd": lambda: contrib.dpsgd(RATE, l2_norm_clip=1.0, noise_multiplier=0.1, seed=0),
    "galore": lambda: contrib.galore(RATE, rank=2),
    "mechanize": lambda: contrib.mechanize(optax.sgd(RATE)),
    "reduce_on_plateau": lambda: optax.chain(optax.adam(RATE), contrib.reduce_on_plateau(accumulation_size=3)),
    "sam": lambda: contrib.sam(optax.sgd(RATE), contrib.normalize(), sync_period=2, opaque_mode=False),
    "schedule_free": lambda: contrib.schedule_free(optax.sgd(RATE), RATE),
}
WRAPPERS = {
    "add_noise": lambda: optax.chain(optax.add_noise(0.01, 0.5, key=0), optax.sgd(RATE)),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(RATE), 3),
    "backtracking": lambda: optax.chain(optax.sgd(RATE), optax.scale_by_backtracking_linesearch(5)),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.noisy_sgd)(RATE, key=0),
    "lookahead": lambda: optax.lookahead(optax.adamw(RATE), sync_period=2, slow_step_size=0.5),
    "masked": lambda: optax.masked(optax.noisy_sgd(RATE, key=0), {"head": {"kernel": True, "bias": False}}),
    "multi_steps": lambda: optax.MultiSteps(optax.noisy_sgd(RATE, key=0), every_k_schedule=2),
    "opaque_sam": lambda: contrib.sam(optax.sgd(RATE), contrib.normalize(), sync_period=2, opaque_mode=True),
    "skip_not_finite": lambda: optax.MultiSteps(optax.sgd(RATE), 1, should_skip_update_fn=optax.skip_not_finite),
    "split_real": lambda: contrib.split_real_and_imaginary(optax.adam(RATE)),
}


def makers(module, given):
    """Return a function for each optimizer of a module of Optax, by name."""
    kinds = (optax.GradientTransformation, optax.GradientTransformationExtraArgs)
    found = {}
    for name, function in inspect.getmembers(module, inspect.isfunction):
        signature = inspect.signature(function)
        if signature.return_annotation in kinds and "learning_rate" in signature.parameters and name[0] != "_":
            found[name] = functools.partial(function, RATE)
    return {**found, **given}


EVERY = {**makers(optax, ALIASES), **makers(contrib, CONTRIB), **WRAPPERS}
FAST = ("noisy_sgd", "lbfgs", "lookahead")


def test_every_optimizer_of_optax_is_in_the_list():
    assert len(EVERY) > 50
    assert {"adam", "lion", "prodigy", "momo", "sophia", "schedule_free_adamw", "dadapt_adamw", "muon"} <= set(EVERY)


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in FAST
        else pytest.param(name, marks=[pytest.mark.slow, *[pytest.mark.exhaustive] * (index % 5 > 0)])
        for index, name in enumerate(sorted(EVERY))
    ],
)
def test_every_optimizer_trains_and_resumes_with_the_same_bits(name, tmp_path):
    config = dataclasses.replace(CONFIG, workdir=str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optax's own, about what it will require
        optimizer = EVERY[name]()
        whole = fit(config, model=Tiny(), optimizer=optimizer)
        (tmp_path / "result.json").unlink()
        shutil.rmtree(tmp_path / "checkpoints" / "4")
        resumed = fit(config, model=Tiny(), optimizer=optimizer)
    assert resumed.values["state_sha256"] == whole.values["state_sha256"]
    assert np.isfinite(whole.test_loss)
    start = create_state(Tiny(), optax.sgd(RATE), (28, 28, 1), seed=0)
    assert not np.array_equal(start.params["head"]["kernel"], whole.state.params["head"]["kernel"])


def batch(size=16):
    random = np.random.default_rng(0)
    images = random.normal(size=(size, 28, 28, 1)).astype(np.float32)
    return {"image": images, "label": random.integers(0, 10, size).astype(np.int32)}


def one_step(optimizer, **options):
    """Return the states before and after a step on one device."""
    state = create_state(Tiny(), optimizer, (28, 28, 1), seed=0)
    return state, jax.jit(make_train_step(Tiny(), optimizer, **options))(state, batch())[0]


NOISY = optax.noisy_sgd(RATE, key=0)
PRIVATE = optax.chain(contrib.differentially_private_aggregate(1.0, 0.1, key=0), optax.sgd(RATE))


@pytest.mark.parametrize("optimizer", [NOISY, PRIVATE, optax.lbfgs(memory_size=2)], ids=["noise", "private", "lbfgs"])
def test_all_devices_make_the_same_step_as_one(optimizer):
    step = make_train_step(Tiny(), optimizer)
    of_each_device = jax.pmap(step, "batch", in_axes=(None, 0), out_axes=0)
    before, alone = one_step(optimizer)
    after, _ = of_each_device(before, jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch()))
    for found, expected in zip(jax.tree.leaves(after), jax.tree.leaves(alone), strict=True):
        assert (np.asarray(found) == np.asarray(found)[:1]).all()
        np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-6)


def test_the_key_of_noise_is_stored_as_an_array_and_moves_on():
    before, after = one_step(NOISY)
    keys = [x.opt_state[0].rng_key for x in (before, after)]
    assert all(isinstance(key, StoredKey) and key.data.dtype == np.uint32 for key in keys)
    assert not np.array_equal(keys[0].data, keys[1].data)


@pytest.mark.slow
def test_a_line_search_lowers_the_loss_of_the_whole_batch_in_micro_batches_too():
    optimizer = optax.lbfgs(memory_size=2)
    _, whole = one_step(optimizer)
    _, parts = one_step(optimizer, gradient=accumulated(4))
    np.testing.assert_allclose(whole.params["head"]["kernel"], parts.params["head"]["kernel"], rtol=1e-3, atol=1e-5)


def test_lookahead_is_tested_with_its_slow_parameters():
    before, after = one_step(optax.lookahead(optax.sgd(1.0), sync_period=5, slow_step_size=0.5))
    assert isinstance(after.opt_state, SlowWeights)
    slow = evaluation_variables(after)["params"]["head"]["kernel"]
    np.testing.assert_array_equal(slow, before.params["head"]["kernel"])  # until the first synchronization
    assert not np.array_equal(slow, after.params["head"]["kernel"])


def test_lookahead_works_under_freezing_and_with_a_loss_scale():
    freezing = Freezing("head/bias")
    lookahead = optax.lookahead(optax.sgd(1.0), sync_period=1, slow_step_size=0.5)
    optimizer = dynamic_loss_scale(freezing.optimizer(lookahead))
    before, after = one_step(optimizer, gradient=freezing.gradient(plain))
    tested = evaluation_variables(after)["params"]["head"]
    np.testing.assert_array_equal(tested["bias"], before.params["head"]["bias"])
    np.testing.assert_allclose(tested["kernel"], after.params["head"]["kernel"], rtol=1e-6)  # just synchronized
    assert not np.array_equal(tested["kernel"], before.params["head"]["kernel"])


def test_schedule_free_optimizers_are_tested_with_their_averages():
    _, after = one_step(contrib.schedule_free_sgd(1.0))
    expected = contrib.schedule_free_eval_params(after.opt_state, after.params)
    np.testing.assert_array_equal(evaluation_variables(after)["params"]["head"]["kernel"], expected["head"]["kernel"])


def test_private_optimizers_get_the_gradient_of_each_example():
    aggregate = contrib.differentially_private_aggregate(l2_norm_clip=0.5, noise_multiplier=0.0, key=0)
    before, after = one_step(aggregate)

    def loss(params, image, label):
        logits = Tiny().apply({"params": params}, image[None], train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label[None])[0]

    each = jax.vmap(jax.grad(loss), (None, 0, 0))(before.params, *map(jnp.asarray, batch().values()))
    norms = jnp.sqrt(sum((x**2).reshape(16, -1).sum(1) for x in jax.tree.leaves(each)))
    clipped = jax.tree.map(lambda g: jnp.einsum("n,n...->...", jnp.minimum(1.0, 0.5 / norms), g) / 16, each)
    expected = jax.tree.map(jnp.add, before.params, clipped)
    np.testing.assert_allclose(after.params["head"]["kernel"], expected["head"]["kernel"], rtol=1e-4, atol=1e-6)


def test_gradients_of_examples_that_do_not_exist_are_refused():
    with pytest.raises(UsageError, match=r"each example, which cannot be accumulated, scaled .*Use accumulate=1"):
        one_step(PRIVATE, gradient=accumulated(2))
    model = Tiny(normalize=True)
    state = jax.eval_shape(lambda: create_state(model, PRIVATE, (28, 28, 1), seed=0))
    with pytest.raises(UsageError, match=r"which is not defined with batch normalization\. Use a model without"):
        jax.eval_shape(make_train_step(model, PRIVATE), state, batch())
