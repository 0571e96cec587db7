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
from jaxcnn.train.gradient import accumulated, of_each_example, plain
from jaxcnn.train.optim.adapters import SlowWeights, StoredKey
from jaxcnn.train.optim.freezing import Freezing
from jaxcnn.train.optim.mixed_precision import dynamic_loss_scale

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


@pytest.mark.usefixtures("compile_quickly")
@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in sorted(EVERY)]
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
