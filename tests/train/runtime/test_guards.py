"""A program may forbid implicit transfers, and random numbers may not change within a run."""

import dataclasses

import flax.linen as nn
import jax
import pytest

from jaxcnn.data import pipeline
from jaxcnn.errors import UsageError
from jaxcnn.train import Config, ScheduleConfig, evaluate, fit

CONFIG = Config(
    steps=5,
    batch_size=16,
    checkpoint_every=2,
    steps_per_dispatch=2,
    ema_decay=0.9,
    class_weights="balanced",
    schedule=ScheduleConfig(warmup_epochs=0.001),
    tensorboard_images=1,
    progress=False,
)


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(10)(x[:, ::7, ::7].reshape(len(x), -1))


@pytest.mark.usefixtures("compile_quickly")
@pytest.mark.parametrize("kept", ["memory", pytest.param("device", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "parallel", ["pmap", *(pytest.param(name, marks=pytest.mark.slow) for name in ("shard_map", "jit"))]
)
def test_fit_makes_no_implicit_transfer(tmp_path, monkeypatch, kept, parallel):
    monkeypatch.setattr(pipeline, "_choose_residence", lambda *_: kept)
    config = dataclasses.replace(CONFIG, parallel=parallel, workdir=str(tmp_path))
    with jax.transfer_guard("disallow"):
        result = fit(config, model=Tiny())
        (tmp_path / "result.json").unlink()
        resumed = fit(config, model=Tiny())
        evaluate(tmp_path, model=Tiny())
    assert resumed.values["state_sha256"] == result.values["state_sha256"]


@pytest.mark.usefixtures("compile_quickly")
def test_a_run_under_other_random_numbers_says_so(tmp_path):
    config = dataclasses.replace(CONFIG, steps=2, class_weights=None, workdir=str(tmp_path))
    fit(config, model=Tiny())
    said = r"checkpoint .*/2 was saved with {0} {1}, but this process uses {2}, .*\. Start this process with {3}"
    with jax.default_prng_impl("rbg"):
        usual = ("jax_default_prng_impl", "'threefry2x32'", "'rbg'", "JAX_DEFAULT_PRNG_IMPL=threefry2x32")
        with pytest.raises(UsageError, match=said.format(*usual)):
            fit(config, model=Tiny())
    with jax.threefry_partitionable(False):
        usual = ("jax_threefry_partitionable", "True", "False", "JAX_THREEFRY_PARTITIONABLE=True")
        with pytest.raises(UsageError, match=said.format(*usual)):
            fit(config, model=Tiny())
        assert evaluate(tmp_path, model=Tiny())["step"] == 2  # needs no random numbers
