"""Predictions of image files agree with the training's own."""

import numpy as np
import pytest
from PIL import Image

from jaxcnn import predict
from jaxcnn.data import open_dataset
from jaxcnn.errors import UsageError
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


def test_fewer_than_one_class_is_refused(lenet_run, tmp_path):
    with pytest.raises(UsageError, match="top must be at least 1"):
        predict.classify(load_run(lenet_run.workdir), [tmp_path / "x.png"], 0)
