"""Image files are read as the network takes them, or refused."""

import numpy as np
import pytest
from PIL import Image

from jaxcnn import predict
from jaxcnn.errors import UsageError
from jaxcnn.predict import images
from jaxcnn.train.runtime.preprocessing import Preprocessing


def read(path, shape, **geometry):
    channels = shape[-1]
    return predict.read_image(path, Preprocessing(shape, (0.5,) * channels, (0.5,) * channels, ("a", "b"), **geometry))


def test_images_are_read_in_the_channels_of_the_network(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(read(path, (8, 6, 3)), pixels)
    np.testing.assert_array_equal(read(path, (8, 6, 1))[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))
    Image.fromarray(pixels[..., 0]).save(path)
    np.testing.assert_array_equal(read(path, (8, 6, 1)), pixels[..., :1])
    np.testing.assert_array_equal(read(path, (8, 6, 3)), pixels[..., :1].repeat(3, -1))
    Image.fromarray(pixels[..., :1].repeat(3, -1)).save(path)  # three equal channels
    np.testing.assert_array_equal(read(path, (8, 6, 1)), pixels[..., :1])


def test_the_orientation_in_exif_is_applied(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # white at the top
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    turned = read(tmp_path / "x.png", (16, 16, 3))
    assert turned[:8].max() == 0
    assert turned[8:].min() == 255


def test_an_image_of_another_size_is_resized_and_cropped_to_its_center(tmp_path):
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, 32:64] = 200
    Image.fromarray(pixels).save(tmp_path / "x.png")
    image = read(tmp_path / "x.png", (8, 8, 3), crop_fraction=0.875)
    assert image.shape == (8, 8, 3)
    assert image[4, 4, 0] == 200
    assert image[4, 0, 0] == 0


def save(path, mode="RGB", size=(28, 28), value=0):
    Image.new(mode, size, value).save(path)


def truncated(path):
    save(path, size=(200, 200))
    path.write_bytes(path.read_bytes()[:120])


BAD = {
    "the file is empty": lambda path: path.write_bytes(b""),
    "cannot be read as an image: the file is not an image": lambda path: path.write_bytes(b"hello" * 99),
    "cannot be read as an image: damaged image": truncated,
    "the maximum is 5,000": lambda path: path.write_bytes(b"x" * 5001),
    "No such file": lambda path: None,
    "Is a directory": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("says", BAD)
def test_an_image_that_cannot_be_used_is_refused_in_one_line(says, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 5000)
    BAD[says](tmp_path / "bad.png")
    with pytest.raises(UsageError) as error:
        read(tmp_path / "bad.png", (28, 28, 1))
    assert says in str(error.value)
    assert str(tmp_path / "bad.png") in str(error.value)
    assert "\n" not in str(error.value)


def test_an_image_of_a_billion_pixels_is_refused_before_it_is_decoded(tmp_path):
    header = b"P5 40000 40000 255\n"
    (tmp_path / "bomb.pgm").write_bytes(header + b"0")
    with pytest.raises(UsageError, match="cannot be read as an image"):
        read(tmp_path / "bomb.pgm", (28, 28, 1))
