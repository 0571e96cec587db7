"""Augmentations: what each does to an image, how often, and that it depends on nothing but its key."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import AUGMENTATIONS, augment, compose, normalize
from jaxcnn.data.augment import check_sizes, crop, crop_box, cutout, flip, resized_crop, shift, shift_reflect
from jaxcnn.errors import UsageError

IMAGE = jnp.arange(1, 1 + 6 * 5 * 2, dtype=jnp.uint8).reshape(6, 5, 2)
LARGER = jnp.asarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8))
KEYS = jax.random.split(jax.random.key(0), 1000)

pytestmark = pytest.mark.usefixtures("compile_quickly")


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


def test_shift_reflect_moves_pixels_and_brings_in_their_reflections():
    moved = np.asarray(jax.vmap(functools.partial(shift_reflect, pixels=2), (0, None))(KEYS, IMAGE))
    padded = np.pad(np.asarray(IMAGE), ((2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = {padded[y : y + 6, x : x + 5].tobytes(): 0 for y in range(5) for x in range(5)}
    for image in moved:
        windows[image.tobytes()] += 1
    assert min(windows.values()) > 15


@pytest.mark.parametrize("spec", ["alternating_flip", "alternating_flip:2"])
def test_alternating_flip_is_left_to_the_pipeline(spec):
    with pytest.raises(UsageError, match=f"augmentation '{spec}' works only in a training run"):
        compose([spec])


@pytest.mark.parametrize("pixels", [1, 2, 4])
@pytest.mark.parametrize("move", [shift, shift_reflect])
def test_tpus_shift_a_batch_to_the_same_images_without_a_gather(move, pixels):
    keys = KEYS[:200]
    moved = jax.vmap(functools.partial(move, pixels=pixels), (0, None))
    offsets = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * pixels + 1))(keys)
    mode = "constant" if move is shift else "reflect"
    padded = np.pad(np.asarray(IMAGE), ((pixels, pixels), (pixels, pixels), (0, 0)), mode=mode)
    selected = jax.vmap(functools.partial(augment._window_by_selection, pixels), (None, 0, 0))
    np.testing.assert_array_equal(jax.jit(selected)(padded, *offsets.T), jax.jit(moved)(keys, IMAGE))

    def gathers(platform):
        traced = jax.jit(moved).trace(keys, IMAGE)
        return traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.gather")

    assert gathers("tpu") == 0 < gathers("cuda")


def test_crop_is_a_window_of_the_padded_image():
    cropped = np.asarray(jax.vmap(functools.partial(crop, padding=1), (0, None))(KEYS, IMAGE))
    padded = np.pad(np.asarray(IMAGE), ((1, 1), (1, 1), (0, 0)))
    windows = [padded[y : y + 6, x : x + 5].tobytes() for y in range(3) for x in range(3)]
    counts = [sum(image.tobytes() == window for image in cropped) for window in windows]
    assert sum(counts) == 1000
    assert min(counts) > 60  # 111 each on average: 5 standard deviations


def test_cutout_covers_a_square_around_any_pixel():
    image = jnp.ones((12, 10, 1), jnp.uint8)
    holes = np.asarray(jax.vmap(functools.partial(cutout, size=4), (0, None))(KEYS, image))[..., 0] == 0
    areas = holes.sum((1, 2))
    assert areas.max() == 16
    assert areas.min() == 4  # around a corner: two rows and columns of four
    for hole in holes:
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # a rectangle
    # A row or column within reach of half the size loses what lies outside; the rest is whole. By the definition,
    # with rows -2 to +1 around the center: 12 rows give 9 whole squares, 10 columns give 7.
    whole = (areas == 16).mean()
    expected = (9 / 12) * (7 / 10)
    assert abs(whole - expected) < 5 * np.sqrt(expected * (1 - expected) / 1000)


@pytest.mark.parametrize(("height", "width"), [(24, 20), (8, 64)])
def test_resized_crop_draws_boxes_like_torchvisions(height, width):
    scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    draw = functools.partial(crop_box, height=height, width=width, scale=scale, ratio=ratio)
    top, left, rows, columns = (np.asarray(x) for x in jax.jit(jax.vmap(draw))(KEYS))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + rows <= height).all()
    assert (left + columns <= width).all()
    # torchvision's own rule, draw for draw, with NumPy's random numbers: the distributions agree.
    theirs = np.array([_torchvisions_box(height, width, scale, ratio, seed) for seed in range(1000)])
    for ours, column in ((rows, 0), (columns, 1)):
        error = theirs[:, column].std() * np.sqrt(2 / 1000)
        assert abs(ours.mean() - theirs[:, column].mean()) < 5 * error + 1e-9
        assert abs(np.median(ours) - np.median(theirs[:, column])) < 8 * error + 1


def _torchvisions_box(height, width, scale, ratio, seed):
    random = np.random.default_rng(seed)
    for _ in range(10):
        area = height * width * random.uniform(*scale)
        shape = np.exp(random.uniform(*np.log(ratio)))
        columns, rows = round(np.sqrt(area * shape)), round(np.sqrt(area / shape))
        if 0 < columns <= width and 0 < rows <= height:
            return rows, columns
    return (height, round(height * ratio[1])) if width / height > ratio[1] else (round(width / ratio[0]), width)


def test_resized_crop_is_pillows_bilinear_resize_of_the_box():
    keys = KEYS[:40]
    draw = functools.partial(crop_box, height=24, width=20, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    boxes = np.stack(jax.jit(jax.vmap(draw))(keys), axis=1)
    resized = np.asarray(jax.jit(jax.vmap(resized_crop, (0, None)))(keys, LARGER)).astype(int)
    for (top, left, rows, columns), ours in zip(boxes, resized, strict=True):
        part = Image.fromarray(np.asarray(LARGER)).crop((left, top, left + columns, top + rows))
        expected = np.asarray(part.resize((20, 24), Image.Resampling.BILINEAR)).astype(int)
        # Pillow rounds after each of its two passes.
        assert np.abs(ours - expected).max() <= 1


def test_a_resized_crop_of_the_whole_image_is_the_image():
    whole = functools.partial(resized_crop, smallest=1.0, largest=1.0, narrowest=0.999, widest=1.001)
    image = LARGER[:20]
    np.testing.assert_array_equal(jax.jit(whole)(KEYS[0], image), image)


# These take long to compile; flip, shift, crop and cutout show by default that floats are kept.
LONG = ("resized_crop", "randaugment", "trivialaugment")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, jnp.uint8) for name in AUGMENTATIONS),
        *(pytest.param(name, jnp.bfloat16, marks=[pytest.mark.slow] * (name in LONG)) for name in AUGMENTATIONS),
    ],
)
def test_shape_and_dtype_are_kept_and_the_key_decides(name, dtype):
    apply = jax.jit(jax.vmap(AUGMENTATIONS[name], (0, None)))
    image = LARGER.astype(dtype)
    once, again, other = (np.asarray(apply(keys, image)) for keys in (KEYS[:20], KEYS[:20], KEYS[20:40]))
    assert (once.shape, once.dtype) == ((20, *image.shape), dtype)
    np.testing.assert_array_equal(once.astype(np.float32), again.astype(np.float32))
    assert not np.array_equal(once.astype(np.float32), other.astype(np.float32))


def test_compose_applies_in_order_with_separate_keys():
    both = compose(["flip", "shift"])(KEYS[0], IMAGE)
    by_hand = shift(jax.random.fold_in(KEYS[0], 1), flip(jax.random.fold_in(KEYS[0], 0), IMAGE))
    np.testing.assert_array_equal(both, by_hand)
    np.testing.assert_array_equal(compose([])(KEYS[0], IMAGE), IMAGE)


def test_compose_takes_functions_as_well_as_names():
    def darker(key, image):
        return image // 2

    both = compose(["flip", darker])(KEYS[0], IMAGE)
    np.testing.assert_array_equal(both, flip(jax.random.fold_in(KEYS[0], 0), IMAGE) // 2)


def test_an_image_is_changed_equally_on_one_device_and_on_eight():
    augment = compose(["crop:2", "flip", "cutout:6"])
    images = np.stack([np.roll(LARGER, place, 0) for place in range(16)])
    keys = KEYS[:16]
    together = jax.jit(jax.vmap(augment))(keys, images)
    divided = jax.pmap(jax.vmap(augment))(keys.reshape(8, 2), images.reshape(8, 2, *LARGER.shape))
    np.testing.assert_array_equal(np.asarray(divided).reshape(together.shape), together)


def test_an_unknown_augmentation_is_refused_with_the_closest_name():
    with pytest.raises(UsageError, match="unknown augmentation 'filp'; did you mean 'flip'"):
        compose(["filp"])


def test_a_number_after_the_name_sets_the_strength():
    by_one = jax.vmap(compose(["shift:1"]), (0, None))(KEYS, IMAGE)
    assert len({image.tobytes() for image in np.asarray(by_one)}) == 9  # 3 x 3 places


@pytest.mark.parametrize(
    "spec",
    [
        "shift:0",
        "shift:-1",
        "shift:x",
        "shift:",
        "shift:1.5",
        "flip:2",
        "cutout:1,2",
        "resized_crop:x",
        "resized_crop:0",
        "randaugment:0",
        "trivialaugment:2",
    ],
)
def test_an_impossible_number_is_refused(spec):
    with pytest.raises(UsageError, match=f"'{spec}'"):
        compose([spec])


def test_normalize_is_the_formula():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 2), np.uint8)
    mean, std = (0.25, 0.5), (0.2, 0.4)
    expected = (images / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(normalize(jnp.asarray(images), mean, std), expected, rtol=1e-5, atol=1e-6)


REFUSED = {
    ("flip", "flip"): "augmentation 'flip' is given twice: flip flip",
    ("crop:4", "flip", "crop:2"): "augmentation 'crop' is given twice",
    ("shift:100000000000000000000",): "Give an integer from 1 to 16384",
    ("shift:" + "9" * 5000,): "Give an integer from 1 to 16384",
    ("randaugment:100000000",): "Give an integer from 1 to 14",
    ("randaugment:2,31",): "Give an integer from 1 to 30",
    ("resized_crop:2",): "Give a number from 0.0001 to 1",
    ("resized_crop:1e-300",): "Give a number from 0.0001 to 1",
    ("resized_crop:0.5,0.2",): "smallest 0.5 is more than largest 0.2",
    ("resized_crop:0.1,1,2",): "narrowest 2 is more than widest 1.33",
}


@pytest.mark.parametrize(("specs", "says"), REFUSED.items(), ids=range(len(REFUSED)))
def test_arguments_that_make_no_sense_are_refused(specs, says):
    with pytest.raises(UsageError, match=says) as refusal:
        compose(specs)
    assert len(str(refusal.value)) < 700


@pytest.mark.parametrize("spec", ["shift:28", "crop:99", "cutout:1000"])
def test_pixels_are_compared_with_the_shorter_side(spec):
    with pytest.raises(UsageError, match=f"'{spec}' is too large for images of 28x40 pixels"):
        check_sizes((spec,), (28, 40, 1))
    check_sizes((spec,), (None, None, 3))  # not known
    check_sizes((spec,), (1001, 1001, 3))


def test_a_default_is_compared_with_the_size_too():
    with pytest.raises(UsageError, match="'cutout' is too large for images of 16x16 pixels: 16"):
        check_sizes(("flip", "cutout", shift), (16, 16, 3))
