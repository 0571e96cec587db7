"""RandAugment and TrivialAugment: Pillow's operations at torchvision's strengths, each chosen equally often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxcnn.data.augment._random_policies import OPERATIONS, operate, randaugment, trivialaugment

IMAGE = np.random.default_rng(1).integers(20, 220, (24, 20, 3), np.uint8)
IMAGE[4:10, 4:12] //= 3
MOST = {"shear": 0.3, "translate_x": 9.0, "translate_y": 9.0, "rotate": 30.0, "blend": 0.9, "bits": 4}
apply = jax.jit(lambda image, name, strength, negative: operate(image, name, strength, negative, **MOST))


pytestmark = pytest.mark.usefixtures("compile_quickly")


def by_pillow(name: str, strength: float, sign: int) -> np.ndarray:
    image = Image.fromarray(IMAGE)
    affine = {
        "shear_x": (1, sign * strength * 0.3, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, sign * strength * 0.3, 1, 0),
        "translate_x": (1, 0, -sign * int(strength * 9), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, -sign * int(strength * 9)),
    }
    blends = {
        "brightness": ImageEnhance.Brightness,
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in affine:
        result = image.transform(image.size, Image.Transform.AFFINE, affine[name], Image.Resampling.NEAREST)
    elif name in blends:
        result = blends[name](image).enhance(1 + sign * strength * 0.9)
    else:
        result = {
            "identity": lambda: image,
            "rotate": lambda: image.rotate(sign * strength * 30, Image.Resampling.NEAREST),
            "posterize": lambda: ImageOps.posterize(image, 8 - round(strength * 4)),
            "solarize": lambda: ImageOps.solarize(image, int(np.ceil(255 * (1 - strength)))),
            "autocontrast": lambda: ImageOps.autocontrast(image),
            "equalize": lambda: ImageOps.equalize(image),
        }[name]()
    return np.asarray(result)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_agrees_with_pillow(name):
    for strength, sign in ((0.3, 1), (0.3, -1), (1.0, 1), (1.0, -1)):
        ours = np.asarray(apply(IMAGE, OPERATIONS.index(name), strength, sign < 0)).astype(int)
        theirs = by_pillow(name, strength, sign).astype(int)
        if name in ("shear_x", "shear_y", "rotate"):
            # Sines and cosines that fall on the edge between two pixels may go either way.
            assert (ours != theirs).any(-1).mean() < 0.02, (strength, sign)
        else:
            assert np.abs(ours - theirs).max() <= 1, (strength, sign)


def test_autocontrast_and_equalize_keep_a_constant_channel():
    image = np.full((8, 8, 3), 77, np.uint8)
    for name in ("autocontrast", "equalize"):
        np.testing.assert_array_equal(apply(image, OPERATIONS.index(name), 1.0, False), image)


def test_randaugment_applies_its_operations_in_turn():
    most = {**MOST, "translate_x": 150 / 331 * 20, "translate_y": 150 / 331 * 24}
    one = jax.jit(lambda image, name, negative: operate(image, name, 0.3, negative, **most))
    two = jax.jit(randaugment)
    for key in jax.random.split(jax.random.key(5), 4):
        by_hand = jnp.asarray(IMAGE)
        for index in range(2):
            which, sign = jax.random.split(jax.random.fold_in(key, index))
            by_hand = one(by_hand, jax.random.randint(which, (), 0, len(OPERATIONS)), jax.random.bernoulli(sign))
        np.testing.assert_array_equal(two(key, jnp.asarray(IMAGE)), by_hand)


def test_trivialaugment_leaves_the_expected_share_of_images_unchanged():
    keys = jax.random.split(jax.random.key(0), 600)
    changed = jax.jit(jax.vmap(trivialaugment, (0, None)))(keys, jnp.asarray(IMAGE))
    untouched = (np.asarray(changed) == IMAGE).all((1, 2, 3)).mean()
    # Identity, one of 14; and at strength 0, one of 31, the 11 of the others that then do nothing: not autocontrast
    # and equalize, which know no strength.
    expected = 1 / 14 + 11 / 14 / 31
    assert abs(untouched - expected) < 5 * np.sqrt(expected / 600)


def test_grayscale_images_have_all_operations():
    image = jnp.asarray(IMAGE[..., :1])
    keys = jax.random.split(jax.random.key(1), 100)
    changed = jax.jit(jax.vmap(trivialaugment, (0, None)))(keys, image)
    assert (changed.shape, changed.dtype) == ((100, *image.shape), image.dtype)
    assert len(np.unique(np.asarray(changed), axis=0)) > 40
