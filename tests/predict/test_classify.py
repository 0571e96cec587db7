"""Predictions of image files agree with the training's own, and are made in a stream."""

import itertools

import numpy as np
import pytest
from PIL import Image

from jaxcnn import predict
from jaxcnn.data import open_dataset
from jaxcnn.errors import UsageError
from jaxcnn.predict import Candidate, Failure, Prediction
from jaxcnn.predict.classify import BATCH
from jaxcnn.train import load_run


def test_files_are_predicted_like_the_images_in_them(lenet_run, tmp_path):
    images = open_dataset("fashion_mnist_mini").read("test")[0][:3]
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image[..., 0]).save(file)
    trained = load_run(lenet_run.workdir)
    for file, row, prediction in zip(files, trained.predict(images), predict.classify(trained, files, 2), strict=True):
        best = np.argsort(-row)[:2]
        assert prediction.image == file
        assert [name for name, _ in prediction.classes] == [trained.preprocessing.class_names[k] for k in best]
        np.testing.assert_allclose([p for _, p in prediction.classes], row[best], rtol=1e-4)


def test_a_tree_is_classified_with_its_labels_and_without_other_files(brightness, tree):
    results = list(predict.classify_files(brightness, predict.Search([tree]), 1))
    made = {str(r.image.relative_to(tree)): r for r in results if isinstance(r, Prediction)}
    assert {name: r.classes[0][0] for name, r in made.items()} == {
        "black/1.png": "black",
        "black/deep/2.jpg": "black",
        "black/wrong": "white",
        "other/4.png": "white",
        "white/3.bmp": "white",
    }
    assert {name: (r.label, r.rank) for name, r in made.items()} == {
        "black/1.png": ("black", 1),
        "black/deep/2.jpg": ("black", 1),
        "black/wrong": ("black", 2),
        "other/4.png": (None, None),
        "white/3.bmp": ("white", 1),
    }
    others = [r for r in results if isinstance(r, Failure)]
    assert {r.path.name: r.is_image for r in others} == {"Thumbs.db": False, "notes.txt": False}


def test_a_bad_file_does_not_cost_the_others(brightness, tree):
    (tree / "black" / "0.png").write_bytes(b"")
    (tree / "black" / "gone.png").symlink_to(tree / "nowhere")
    damaged = (tree / "black" / "1.png").read_bytes()[:45]
    (tree / "white" / "damaged.png").write_bytes(damaged)
    results = list(predict.classify_files(brightness, predict.Search([tree])))
    assert sum(isinstance(r, Prediction) for r in results) == 5
    bad = [r.path.name for r in results if isinstance(r, Failure) and r.is_image]
    assert bad == ["0.png", "gone.png", "damaged.png"]
    with pytest.raises(UsageError, match=r"0.png cannot be read as an image: the file is empty"):
        predict.classify(brightness, [tree / "black" / "1.png", tree / "black" / "0.png"])


def test_files_are_read_as_their_predictions_are_taken(brightness, tree, monkeypatch):
    monkeypatch.setattr("jaxcnn.data.threads.count_cores", lambda: 2)
    taken = itertools.count()
    files = (Candidate(tree / "black" / "1.png") for _ in range(100_000) if next(taken) >= 0)
    results = predict.classify_files(brightness, files)
    for _ in range(BATCH + 1):
        next(results)
    assert next(taken) < 4 * BATCH
    results.close()


def test_batches_of_other_lengths_use_one_program(brightness, tree):
    files = [Candidate(tree / "black" / "1.png")] * (2 * BATCH + 3)
    assert len(list(predict.classify_files(brightness, files))) == 2 * BATCH + 3
    assert brightness._probabilities._cache_size() <= 3  # one for each number of files in this module


@pytest.mark.parametrize(
    ("top", "says"), [(0, "top must be at least 1, got 0"), (4, "at most 3, the number of classes")]
)
def test_a_number_of_classes_out_of_range_is_refused(top, says, brightness, tree):
    with pytest.raises(UsageError, match=says):
        predict.classify(brightness, [tree / "black" / "1.png"], top)


def test_no_images_have_no_predictions(brightness):
    assert predict.classify(brightness, []) == []
    assert brightness.predict(np.zeros((0, 4, 4, 3), np.uint8)).shape == (0, 3)


@pytest.mark.parametrize("images", [np.zeros((1, 4, 4, 1), np.uint8), np.zeros((1, 4, 4, 3), np.float32)])
def test_images_of_another_shape_or_dtype_are_refused_in_one_line(images, brightness):
    with pytest.raises(UsageError, match=r"must be uint8 of shape \('N', 4, 4, 3\)"):
        brightness.predict(images)
