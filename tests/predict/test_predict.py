"""Predictions are the training's own: same images, same preprocessing, same answers, without the data set."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jaxcnn import predict
from jaxcnn.cli import main
from jaxcnn.data import open_dataset
from jaxcnn.errors import UsageError
from jaxcnn.train import Config, fit, load_run
from jaxcnn.train.runtime.preprocessing import PREPROCESSING


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return fit(Config(steps=60, batch_size=64, progress=False, workdir=str(folder), ema_decay=0.9))


@pytest.fixture(scope="module")
def images():
    return open_dataset("fashion_mnist_mini").read("test")


def test_the_accuracy_of_predictions_is_what_training_reported(run, images):
    pixels, labels = images
    probabilities = load_run(run.workdir).predict(pixels)
    assert probabilities.shape == (2000, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert (probabilities.argmax(1) == labels).mean() == pytest.approx(run.test_accuracy, abs=1e-9)


def test_the_data_set_is_not_needed(run, monkeypatch):
    monkeypatch.setattr("jaxcnn.train.runtime.trained.open_dataset", None)
    assert load_run(run.workdir).preprocessing.class_names[0] == "T-shirt/top"


def test_a_run_from_before_preprocessing_was_stored_takes_it_from_its_data_set(run):
    stored = (run.workdir / PREPROCESSING).read_text()
    (run.workdir / PREPROCESSING).unlink()
    from_data = load_run(run.workdir).preprocessing
    (run.workdir / PREPROCESSING).write_text(stored)
    assert from_data == load_run(run.workdir).preprocessing


@pytest.fixture(scope="module")
def folder(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("images")
    for index in range(3):
        Image.fromarray(images[0][index, ..., 0]).save(folder / f"{index}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_a_folder_of_files_is_predicted_as_the_images_in_it(run, folder, images, capsys):
    assert main(["predict", str(folder), "--workdir", str(run.workdir), "--json", "--top", "2"]) == 0
    rows = json.loads(capsys.readouterr().out)
    trained = load_run(run.workdir)
    probabilities = trained.predict(images[0][:3])
    assert [row["image"] for row in rows] == [str(folder / f"{index}.png") for index in range(3)]
    for row, wanted in zip(rows, probabilities, strict=True):
        best = np.argsort(-wanted)[:2]
        assert [p["class"] for p in row["predictions"]] == [trained.preprocessing.class_names[k] for k in best]
        np.testing.assert_allclose([p["probability"] for p in row["predictions"]], wanted[best], rtol=1e-4)
    assert main(["predict", str(folder / "0.png"), "--workdir", str(run.workdir)]) == 0
    assert "%" in capsys.readouterr().out


def test_images_are_read_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(predict.read_image(path, (8, 6, 3)), pixels)
    Image.fromarray(pixels[..., 0]).save(path)
    np.testing.assert_array_equal(predict.read_image(path, (8, 6, 1)), pixels[..., :1])
    np.testing.assert_array_equal(predict.read_image(path, (8, 6, 3)), pixels[..., :1].repeat(3, -1))
    Image.fromarray(pixels[..., :1].repeat(3, -1)).save(path)  # saved as colour, but grey
    np.testing.assert_array_equal(predict.read_image(path, (8, 6, 1)), pixels[..., :1])


def test_a_cameras_note_of_its_position_is_followed(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # white at the top
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    turned = predict.read_image(tmp_path / "x.png", (16, 16, 3))
    assert turned[:8].max() == 0
    assert turned[8:].min() == 255


def test_an_image_of_another_size_is_scaled_from_its_middle(tmp_path):
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, 32:64] = 200
    Image.fromarray(pixels).save(tmp_path / "x.png")
    image = predict.read_image(tmp_path / "x.png", (8, 8, 3))
    assert image.shape == (8, 8, 3)
    assert image[4, 4, 0] == 200
    assert image[4, 0, 0] == 0


def save(path, mode="RGB", size=(28, 28), value=0, **options):
    Image.new(mode, size, value).save(path, **options)


def coloured(path):
    save(path, value=(255, 0, 0))


def transparent(path):
    save(path, "RGBA", value=(9, 9, 9, 100))


def cut_off(path):
    save(path, size=(200, 200))
    path.write_bytes(path.read_bytes()[:120])


BAD = {
    "the file is empty": lambda path: path.write_bytes(b""),
    "cannot be read as an image: cannot identify": lambda path: path.write_bytes(b"hello" * 99),
    "cannot be read as an image": cut_off,
    "is in color, but the model was trained on gray": coloured,
    "has transparent pixels": transparent,
    "more than 8 bits": lambda path: save(path, "I;16"),
}


@pytest.mark.parametrize("says", BAD)
def test_an_image_that_cannot_be_taken_is_one_line(says, tmp_path, run, capsys):
    BAD[says](tmp_path / "bad.png")
    assert main(["predict", str(tmp_path / "bad.png"), "--workdir", str(run.workdir)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert len(err.splitlines()) == 1


def test_an_image_of_a_billion_pixels_is_refused_before_it_is_decoded(tmp_path):
    header = b"P5 40000 40000 255\n"
    (tmp_path / "bomb.pgm").write_bytes(header + b"0")
    with pytest.raises(UsageError, match="exceeds limit"):
        predict.read_image(tmp_path / "bomb.pgm", (28, 28, 1))


def test_mistakes_are_one_line(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    image = tmp_path / "x.png"
    save(image, "L")
    workdir = ["--workdir", str(run.workdir)]
    for args, says in (
        ([str(tmp_path / "none.png"), *workdir], "does not exist"),
        ([str(tmp_path / "empty"), *workdir], "contains no images"),
        ([*workdir], "image"),
        ([str(image), "--workdir", "/nowhere"], "/nowhere does not exist"),
        ([str(image), *workdir, "--top", "0"], "top must be at least 1"),
    ):
        assert main(["predict", *args]) == 2, args
        err = capsys.readouterr().err
        assert says in err
        assert len(err.splitlines()) == 1


def test_preprocessing_that_was_damaged_is_one_line(run):
    path = run.workdir / PREPROCESSING
    stored = path.read_text()
    for damage in ("[]", "{}", '{"image_shape": 3}', json.dumps({**json.loads(stored), "mean": [1, 2]})):
        path.write_text(damage)
        with pytest.raises(UsageError, match="is damaged"):
            load_run(run.workdir)
    path.write_text(stored)


def test_a_run_without_a_checkpoint_is_one_line(run, tmp_path):
    for name in ("config.json", PREPROCESSING):
        (tmp_path / name).write_bytes((run.workdir / name).read_bytes())
    with pytest.raises(UsageError, match="no checkpoint yet"):
        load_run(tmp_path)


def test_preprocessing_is_that_of_the_data_set(run):
    trained = load_run(run.workdir)
    statistics = open_dataset("fashion_mnist_mini").statistics()
    assert dataclasses.astuple(trained.preprocessing)[:3] == ((28, 28, 1), statistics.mean, statistics.std)
