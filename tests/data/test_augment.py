"""Augmentations do what their names say, as often as they should, and are functions of their key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data import AUGMENTATIONS, compose, normalize
from jaxcnn.data.augment import flip, shift
from jaxcnn.errors import UsageError

IMAGE = jnp.arange(1, 1 + 6 * 5 * 2, dtype=jnp.uint8).reshape(6, 5, 2)
LARGER = jnp.asarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8))
KEYS = jax.random.split(jax.random.key(0), 1000)


def test_flip_mirrors_half_of_the_images():
    flipped = np.asarray(jax.vmap(flip, (0, None))(KEYS, IMAGE))
    mirrored = (flipped == np.asarray(IMAGE)[:, ::-1]).all((1, 2, 3))
    untouched = (flipped == np.asarray(IMAGE)).all((1, 2, 3))
    assert (mirrored ^ untouched).all()
    assert 430 < mirrored.sum() < 570  # 4.4 standard deviations around 500


def test_shift_moves_pixels_and_brings_in_black():
    moved = np.asarray(jax.vmap(shift, (0, None))(KEYS, IMAGE))
    padded = np.pad(np.asarray(IMAGE), ((2, 2), (2, 2), (0, 0)))
    windows = {padded[y : y + 6, x : x + 5].tobytes(): 0 for y in range(5) for x in range(5)}
    for image in moved:
        windows[image.tobytes()] += 1  # a KeyError if it is none of the 25 shifts by up to 2 pixels
    assert min(windows.values()) > 15  # 40 each on average: 4 standard deviations


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32, jnp.bfloat16])
def test_shape_and_dtype_stay_and_the_key_decides(name, dtype):
    apply = jax.jit(jax.vmap(AUGMENTATIONS[name], (0, None)))
    image = LARGER.astype(dtype)
    once, again = apply(KEYS[:20], image), apply(KEYS[:20], image)
    assert (once.shape, once.dtype) == ((20, *image.shape), dtype)
    np.testing.assert_array_equal(np.asarray(once, np.float32), np.asarray(again, np.float32))
    assert not np.array_equal(np.asarray(once, np.float32), np.asarray(apply(KEYS[20:40], image), np.float32))


def test_compose_applies_in_order_with_separate_keys():
    both = compose(["flip", "shift"])(KEYS[0], IMAGE)
    by_hand = shift(jax.random.fold_in(KEYS[0], 1), flip(jax.random.fold_in(KEYS[0], 0), IMAGE))
    np.testing.assert_array_equal(both, by_hand)
    np.testing.assert_array_equal(compose([])(KEYS[0], IMAGE), IMAGE)


def test_an_unknown_augmentation_names_the_nearest():
    with pytest.raises(UsageError, match="unknown augmentation 'filp'; did you mean 'flip'"):
        compose(["filp"])


def test_a_number_behind_the_name_sets_how_far():
    by_one = jax.vmap(compose(["shift:1"]), (0, None))(KEYS, IMAGE)
    assert len({image.tobytes() for image in np.asarray(by_one)}) == 9  # 3 x 3 places


@pytest.mark.parametrize("spec", ["shift:0", "shift:-1", "shift:x", "shift:", "shift:1.5", "flip:2"])
def test_an_impossible_number_is_refused(spec):
    with pytest.raises(UsageError, match=f"'{spec}'"):
        compose([spec])


def test_normalize_is_the_formula():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 2), np.uint8)
    mean, std = (0.25, 0.5), (0.2, 0.4)
    expected = (images / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(normalize(jnp.asarray(images), mean, std), expected, rtol=1e-5, atol=1e-6)
