"""The parts of the step follow their formulas, and gradients of micro-batches add up to the gradient of the batch."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, Flatten, ReLU, Sequential
from jaxcnn.train import (
    Classification,
    binary_cross_entropy,
    create_state,
    cross_entropy,
    evaluation_variables,
    make_eval_step,
    make_parallel,
    make_train_step,
)
from jaxcnn.train.gradient import accumulated, plain, scaled
from jaxcnn.train.losses import LOSSES, make_loss
from jaxcnn.train.mixing import MixedLabels, cutmix, main_labels, make_mix, mixed_loss, mixup
from jaxcnn.train.optim import ema
from jaxcnn.train.optim.mixed_precision import INITIAL_SCALE, dynamic_loss_scale, loss_scale
from jaxcnn.train.task import views

SHAPE = (6, 6, 3)


def network(*extra, dtype=None):
    return Sequential([Conv(4, 3, dtype=dtype), *extra, ReLU(), Flatten(), Dense(5, dtype=jnp.float32)])


def batch(size=24, seed=0):
    random = np.random.default_rng(seed)
    images = random.normal(size=(size, *SHAPE)).astype(np.float32)
    return {"image": images, "label": random.integers(0, 5, size).astype(np.int32)}


def train(model=None, steps=3, optimizer=None, devices=1, averaged=False, strategy="pmap", task=None, **options):
    model, optimizer = model or network(), optimizer or optax.sgd(0.1, momentum=0.9)
    parallel = make_parallel(strategy, jax.devices()[:devices])
    step = make_train_step(model, optimizer, task, **options)
    compiled = parallel.compile(step, donate_state=False)
    state = parallel.place_state(create_state(model, optimizer, SHAPE, seed=0, averaged=averaged))
    seen = [state]
    for number in range(steps):
        state, sums = compiled(state, parallel.place_batch(batch(seed=number)))
        assert int(sums["examples"]) == 24
        seen.append(state)
    return jax.device_get(seen)


def largest_difference(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.max(np.abs(x - y))), a, b)))


@functools.cache
def whole_batch():
    return train()[-1].params


@pytest.mark.parametrize("parts", [2, 5])  # 5 leaves a shorter part over
def test_micro_batches_add_up_to_the_batch(parts):
    assert largest_difference(train(gradient=accumulated(parts))[-1].params, whole_batch()) < 1e-6


def test_micro_batches_add_up_in_a_loop_too(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # on which the parts are a loop in the program
    assert largest_difference(train(gradient=accumulated(5))[-1].params, whole_batch()) < 1e-6


@pytest.mark.parametrize("strategy", ["pmap", "jit"])
def test_micro_batches_add_up_over_devices(strategy):
    parts = train(gradient=accumulated(3), devices=4, strategy=strategy)[-1]
    assert largest_difference(parts.params, whole_batch()) < 1e-6


def test_batch_norm_sees_micro_batches_and_its_running_statistics_move_with_each():
    normalized = network(BatchNorm(momentum=0.9))
    whole, parts = train(normalized, steps=1)[-1], train(normalized, steps=1, gradient=accumulated(3))[-1]
    assert largest_difference(whole.params, parts.params) > 1e-4
    # The running mean moves by 0.1 of the distance once, and by 1 - 0.9^3 in three times: the parts' mean is the
    # batch's, but weighted towards the last.
    once, thrice = (np.linalg.norm(state.batch_stats["layers_1"]["mean"]) for state in (whole, parts))
    assert 2.0 < thrice / once < 3.5


def test_each_micro_batch_has_its_own_dropout():
    half = {name: x[:4] for name, x in batch().items()}
    twice = {name: np.repeat(x, 2, axis=0) for name, x in half.items()}  # each micro-batch is the same half
    model, optimizer = network(Dropout(0.5)), optax.sgd(0.0)
    state = create_state(model, optimizer, SHAPE, seed=0)
    _, both = jax.jit(make_train_step(model, optimizer, gradient=accumulated(2)))(state, twice)
    _, one = jax.jit(make_train_step(model, optimizer))(state, half)
    assert not np.allclose(both["loss"], 2 * one["loss"])


def test_the_average_follows_its_formula_over_parameters_and_statistics():
    states = train(network(BatchNorm()), steps=4, averaged=True, ema_decay=0.2)
    average = {"params": states[0].params, "batch_stats": states[0].batch_stats}
    for number, state in enumerate(states[1:]):
        d = min(0.2, (1 + number) / (10 + number))
        latest = {"params": state.params, "batch_stats": state.batch_stats}
        average = jax.tree.map(lambda a, x, d=d: d * a + (1 - d) * x, average, latest)
    assert float(ema.decay_at(0.2, 3)) == pytest.approx(0.2)
    assert largest_difference(average, states[-1].ema) < 1e-6
    assert largest_difference(states[-1].ema["params"], states[-1].params) > 1e-3


def test_what_is_tested_is_the_average_where_there_is_one():
    model = network()
    state = train(model, averaged=True, ema_decay=0.9)[-1]
    test = batch()
    logits = model.apply({"params": state.ema["params"]}, test["image"], train=False)
    expected = cross_entropy(logits, test["label"]).sum()
    np.testing.assert_allclose(make_eval_step(model)(state, (test, np.ones(24, bool)))["loss"], expected, rtol=1e-5)
    assert evaluation_variables(state) is state.ema
    assert set(evaluation_variables(train(model, steps=0)[0])) == {"params", "batch_stats"}


def test_flipping_takes_the_mean_of_an_image_and_its_mirror_image():
    model = network()
    state = train(model, steps=1)[-1]
    test = batch()
    apply = functools.partial(model.apply, {"params": state.params}, train=False)
    logits = (apply(test["image"]) + apply(test["image"][:, :, ::-1])) / 2
    expected = cross_entropy(logits, test["label"]).sum()
    np.testing.assert_allclose(
        make_eval_step(model, Classification(tta="flip"))(state, (test, np.ones(24, bool)))["loss"],
        expected,
        rtol=1e-5,
    )


def test_shifted_views_have_half_of_the_weight():
    images = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4, 1)
    seen = views(jnp.asarray(images), "flip_shift")
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    shifted = [images, padded[:, :3, :4], padded[:, 2:, 2:]]
    expected = [view for image in shifted for view in (image, image[:, :, ::-1])]
    assert [weight for weight, _ in seen] == [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
    for (_, view), image in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(view, image)


LOGITS, LABELS = jnp.array([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0]]), jnp.array([0, 2])
SOFT = 0.7 * jax.nn.one_hot(LABELS, 3) + 0.1  # smoothed by 0.3


def test_label_smoothing_is_the_loss_against_a_soft_target():
    soft_cross_entropy = -(SOFT * jax.nn.log_softmax(LOGITS)).sum(-1)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, 0.3), soft_cross_entropy, rtol=1e-6)
    p = jax.nn.sigmoid(LOGITS)
    soft_binary = -(SOFT * jnp.log(p) + (1 - SOFT) * jnp.log(1 - p)).mean(-1)
    np.testing.assert_allclose(binary_cross_entropy(LOGITS, LABELS, 0.3), soft_binary, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_mixed_labels_is_that_of_the_mixed_target(name):
    mixed = MixedLabels(LABELS, LABELS[::-1], jnp.array([0.8, 0.3]))
    found = mixed_loss(make_loss(name), LOGITS, mixed)
    target = jnp.array([[0.8, 0.0, 0.2], [0.7, 0.0, 0.3]])
    log, other = jax.nn.log_sigmoid(LOGITS), jax.nn.log_sigmoid(-LOGITS)
    by_name = {
        "cross_entropy": -(target * jax.nn.log_softmax(LOGITS)).sum(-1),
        "binary_cross_entropy": -(target * log + (1 - target) * other).mean(-1),
    }
    np.testing.assert_allclose(found, by_name[name], rtol=1e-5)
    assert main_labels(mixed).tolist() == [0, 0]


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_the_share_of_a_mixed_image_is_what_it_shows_of_the_image(mix):
    # An image of ones and a partner of zeros: the mean is the share.
    ones, zeros = jnp.ones((16, 12, 3)), jnp.zeros((16, 12, 3))
    keys = jax.random.split(jax.random.key(0), 400)
    images, shares = jax.jit(jax.vmap(lambda key: mix(key, ones, zeros, 1.0)))(keys)
    np.testing.assert_allclose(images.mean((1, 2, 3)), shares, atol=1e-6)
    assert shares.min() < 0.2
    assert shares.max() > 0.9
    if mix is mixup:
        # Beta(1, 1) is the uniform distribution.
        np.testing.assert_allclose(np.quantile(shares, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.08)
    else:
        assert set(np.unique(images)) == {0.0, 1.0}
        boxes = np.asarray(images[..., 0] == 0)
        heights, widths = boxes.any(2).sum(1), boxes.any(1).sum(1)
        assert (boxes.sum((1, 2)) == heights * widths).all()  # each is one rectangle


def test_both_mixings_are_chosen_equally_often():
    mix = make_mix(0.5, 1.0)
    keys = jax.random.split(jax.random.key(0), 400)
    ones, zeros = jnp.ones((8, 8, 1), jnp.uint8), jnp.zeros((8, 8, 1), jnp.uint8)
    images, _ = jax.jit(jax.vmap(lambda key: mix(key, ones, zeros)))(keys)
    cut = ((images == 0) | (images == 1)).all((1, 2, 3)).mean()
    assert 0.4 < cut < 0.6
    assert make_mix(0.0, 0.0) is None


@pytest.mark.slow
def test_mixing_pairs_the_same_examples_on_any_number_of_devices():
    mixing = {"task": Classification(mix=make_mix(1.0, 1.0)), "steps": 1}
    one, four = train(**mixing)[-1], train(**mixing, devices=4)[-1]
    assert largest_difference(one.params, four.params) < 1e-6
    assert largest_difference(train(**mixing, devices=4, strategy="jit")[-1].params, one.params) < 1e-6
    assert largest_difference(one.params, train(steps=1)[-1].params) > 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_computes_nearly_the_same_and_keeps_its_parameters_whole(dtype):
    optimizer, gradient = optax.sgd(0.1, momentum=0.9), plain
    if dtype == "float16":
        optimizer, gradient = dynamic_loss_scale(optimizer), scaled(loss_scale)
    state = train(network(dtype=jnp.dtype(dtype)), optimizer=optimizer, gradient=gradient)[-1]
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype("float32")}
    assert 0 < largest_difference(state.params, whole_batch()) < 0.03


def test_a_step_of_infinite_gradients_is_left_out_and_halves_the_scale():
    optimizer = dynamic_loss_scale(optax.adam(0.1), growth_interval=2)
    params = {"kernel": jnp.ones(2)}
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    updates, after = update({"kernel": jnp.array([1.0, jnp.inf])}, state, params)
    assert updates["kernel"].tolist() == [0.0, 0.0]
    assert float(after.scale) == INITIAL_SCALE / 2
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), state.inner, after.inner))
    gradients = {"kernel": jnp.array([0.5, -2.0])}
    for scale in (INITIAL_SCALE / 2, INITIAL_SCALE):  # doubled after two good steps
        updates, after = update(gradients, after, params)
        assert float(after.scale) == scale
    unscaled, _ = optax.adam(0.1).update(gradients, optax.adam(0.1).init(params), params)
    first, _ = update(gradients, state, params)
    np.testing.assert_allclose(first["kernel"], unscaled["kernel"], rtol=1e-6)


def test_at_a_scale_of_one_the_gradients_are_taken_as_they_are_so_that_divergence_shows():
    optimizer = dynamic_loss_scale(optax.sgd(0.1))
    params = {"kernel": jnp.ones(1)}
    state = optimizer.init(params)._replace(scale=jnp.float32(1.0))
    updates, _ = optimizer.update({"kernel": jnp.array([jnp.nan])}, state, params)
    assert np.isnan(updates["kernel"]).all()


def test_auxiliary_losses_are_added_with_their_weight():
    class Auxiliary(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            logits = nn.Dense(5)(x.reshape(len(x), -1))
            if train:
                self.sow("aux_logits", "early", logits)
            return logits

    # With the main logits as the auxiliary ones the gradient is 1 + weight times as long.
    start, with_it = train(Auxiliary(), steps=1, optimizer=optax.sgd(0.1), task=Classification(aux_weight=0.5))
    _, without = train(Auxiliary(), steps=1, optimizer=optax.sgd(0.1), task=Classification(aux_weight=0.0))
    moved = jax.tree.map(lambda after, before: after - before, with_it.params, start.params)
    expected = jax.tree.map(lambda after, before: 1.5 * (after - before), without.params, start.params)
    assert largest_difference(moved, expected) < 1e-6


class Classifier(nn.Module):
    """A model of which every operation works without rank promotion."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(nn.Dense(8)(x.reshape(len(x), -1)))
        return nn.Dense(5)(nn.Dropout(0.5, deterministic=not train)(x))


@pytest.mark.parametrize(
    "restricted",
    [
        pytest.param(functools.partial(jax.numpy_rank_promotion, "raise"), id="rank"),
        pytest.param(jax.disable_jit, id="no-jit", marks=pytest.mark.slow),
    ],
)
def test_the_step_works_without_rank_promotion_and_without_jit(restricted):
    model, optimizer = Classifier(), dynamic_loss_scale(optax.adam(0.1))
    task = Classification(
        functools.partial(cross_entropy, label_smoothing=0.1),
        augment=lambda key, image: image[:, ::-1],
        mix=make_mix(0.5, 0.5),
        normalize=lambda x: x / 2,
        tta="flip",
    )
    step = make_train_step(model, optimizer, task, gradient=scaled(loss_scale, accumulated(2)), ema_decay=0.9)
    with restricted():
        state = create_state(model, optimizer, SHAPE, seed=0, averaged=True)
        # Without a restriction on jit, one program in place of one for each operation.
        after, sums = jax.jit(step)(state, batch(size=5))
        tested = jax.jit(make_eval_step(model, task))(after, (batch(size=5), np.ones(5, bool)))
    assert int(after.step) == 1
    assert np.isfinite(sums["loss"])
    assert np.isfinite(tested["loss"])


def test_a_gradient_of_ones_own_takes_the_place_of_the_plain_one():
    """Sharpness-aware minimization: the gradient at the point of highest loss in a neighborhood."""

    def sharpness_aware(loss, params, radius=0.05):
        gradients, _ = plain(loss, params)
        length = optax.tree.norm(gradients)
        return plain(loss, jax.tree.map(lambda p, g: p + radius * g / length, params, gradients))

    start, sharp = train(gradient=sharpness_aware, steps=1, optimizer=optax.sgd(0.1))
    step = jax.jit(make_train_step(network(), optax.sgd(0.1), gradient=sharpness_aware))
    np.testing.assert_allclose(sharp.params["layers_3"]["bias"], step(start, batch())[0].params["layers_3"]["bias"])
    # In micro-batches each has a neighborhood of its own.
    parts = train(gradient=accumulated(2, sharpness_aware), steps=1, optimizer=optax.sgd(0.1))[-1]
    other = train(steps=1, optimizer=optax.sgd(0.1))[-1]
    assert 1e-5 < largest_difference(parts.params, sharp.params) < largest_difference(sharp.params, start.params)
    assert largest_difference(other.params, sharp.params) > 1e-5


@pytest.mark.parametrize("devices", [1, 2])
def test_norms_are_those_over_all_parameters_and_devices(devices):
    model, rate = network(), 0.5
    state = create_state(model, optax.sgd(rate), SHAPE, 0)
    parallel = make_parallel("shard_map", jax.devices()[:devices])
    step = parallel.compile(make_train_step(model, optax.sgd(rate), norms=True), donate_state=False)
    after, sums = step(parallel.place_state(state), parallel.place_batch(batch()))
    changes = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), after.params, state.params)
    length = np.sqrt(sum((change**2).sum() for change in jax.tree.leaves(changes)))
    np.testing.assert_allclose(sums["update_norm"], length, rtol=1e-4)
    np.testing.assert_allclose(sums["gradient_norm"], length / rate, rtol=1e-4)


def test_what_a_gradient_leaves_out_stays_as_it_is():
    def of_the_classifier(loss, params):
        gradients, (batch_stats, sums) = plain(loss, params)
        left_out = {**gradients, "layers_0": jax.tree.map(lambda _: optax.MaskedNode(), gradients["layers_0"])}
        return left_out, (jax.tree.map(lambda _: optax.MaskedNode(), batch_stats), sums)

    # SGD without momentum has no state of the parameters.
    before, *_, after = train(
        network(BatchNorm()), gradient=of_the_classifier, optimizer=optax.sgd(0.1), averaged=True, ema_decay=0.5
    )
    for tree in ("params", "ema"):
        old, new = getattr(before, tree), getattr(after, tree)
        old, new = (old["params"], new["params"]) if tree == "ema" else (old, new)
        assert largest_difference(old["layers_0"], new["layers_0"]) == 0.0
        assert largest_difference(old["layers_4"], new["layers_4"]) > 0.0
    assert largest_difference(before.batch_stats, after.batch_stats) == 0.0
    assert largest_difference(before.ema["batch_stats"], after.ema["batch_stats"]) == 0.0
