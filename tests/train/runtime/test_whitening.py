"""Runs whose first kernel whitens patches of their images, with the other parts of the speedrun, resumed exactly."""

import dataclasses

import numpy as np
import pytest

from jaxcnn.data import from_arrays, from_batches
from jaxcnn.errors import UsageError
from jaxcnn.train import Config, LookaheadConfig, OptimizerConfig, ScheduleConfig, fit, load_run
from jaxcnn.train.runtime.plan import make_plan

CONFIG = Config(
    model="speedrun",
    model_options=("widths=(8,8)",),
    whiten="whiten/kernel",
    freeze="whiten/kernel",
    freeze_after=("whiten/bias=1",),
    steps=9,
    batch_size=16,
    augment=("alternating_flip", "shift_reflect:1"),
    optimizer=OptimizerConfig(
        "nesterov", 0.1, decay_all=True, learning_rate_scales=(r"block\d/norm=64",), weight_decay_scales=("block=2",)
    ),
    schedule=ScheduleConfig("triangle"),
    lookahead=LookaheadConfig(2),
    tta="flip_shift",
    evaluate_every=100,
    checkpoint_every=4,
    progress=False,
)


def images(count: int = 48):
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    pixels = random.integers(0, 128, (count, 14, 14, 3)) + 40 * labels[:, None, None, None]
    return pixels.astype(np.uint8), labels


def data():
    return from_arrays(train=images(), test=images(18))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit(dataclasses.replace(CONFIG, workdir=str(tmp_path_factory.mktemp("whole"))), data=data())


def test_the_kernel_whitens_the_images_and_stays_as_it_is(whole):
    plan = make_plan(CONFIG, data=data())
    initial = plan.initial_state()
    kernel = np.asarray(initial.params["whiten"]["kernel"], np.float64)
    x = np.asarray(plan.preprocessing.normalize(images()[0]), np.float64)
    patches = np.concatenate([x[:, y : y + 13, z : z + 13] for y in range(2) for z in range(2)], -1).reshape(-1, 12)
    outputs = patches @ kernel[..., :12].reshape(12, 12)
    np.testing.assert_allclose(outputs.T @ outputs / len(outputs), np.eye(12), atol=0.02)
    np.testing.assert_array_equal(whole.state.params["whiten"]["kernel"], initial.params["whiten"]["kernel"])
    assert "whiten/kernel whitens patches of 48 training images" in plan.notes()
    # The other parameters start as without whitening.
    plain = make_plan(dataclasses.replace(CONFIG, whiten=None), data=data()).initial_state()
    np.testing.assert_array_equal(plain.params["head"]["kernel"], initial.params["head"]["kernel"])
    np.testing.assert_array_equal(initial.ema["params"]["whiten"]["kernel"], initial.params["whiten"]["kernel"])


def test_a_resumed_run_has_the_same_bits(whole, tmp_path):
    class Killed(Exception):
        pass

    class Kill:
        def on_step(self, run):
            if run.step == 6:
                raise Killed

    config = dataclasses.replace(CONFIG, workdir=str(tmp_path / "run"))
    with pytest.raises(Killed):
        fit(config, data=data(), callbacks=[Kill()])
    resumed = fit(config, data=data())
    assert resumed.values["state_sha256"] == whole.values["state_sha256"]
    assert resumed.test_loss == whole.test_loss


def test_the_saved_network_is_tested_as_in_the_run(whole):
    trained = load_run(whole.workdir)
    pixels, labels = images(18)
    assert trained.config.tta == "flip_shift"
    assert (trained.predict(pixels).argmax(-1) == labels).mean() == pytest.approx(whole.test_accuracy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"whiten": "whitn/kernel"}, "unknown kernel to whiten 'whitn/kernel'; did you mean 'whiten/kernel'"),
        ({"whiten": "block1/conv1/kernel"}, "needs a kernel on images of 3 channels, but block1/conv1/kernel has the"),
        ({"init_from": "somewhere.safetensors"}, "whiten and init_from are mutually exclusive"),
    ],
)
def test_a_kernel_that_cannot_whiten_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        make_plan(dataclasses.replace(CONFIG, **changes), data=data())


def test_data_that_is_read_in_order_cannot_be_whitened():
    def batches():
        pixels, labels = images(16)
        return iter([{"image": pixels, "label": labels}])

    stream = from_batches(batches, batches, examples=16, class_names=["a", "b", "c"])
    with pytest.raises(UsageError, match="whiten needs data with random access"):
        make_plan(dataclasses.replace(CONFIG, augment=()), data=stream)
