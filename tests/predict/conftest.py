"""A network of known predictions, and a tree of images for it."""

import numpy as np
import pytest
from PIL import Image

from jaxcnn.layers import Conv, Dense, GlobalAvgPool, Sequential
from jaxcnn.train import Config, Trained
from jaxcnn.train.runtime.preprocessing import Preprocessing

CLASSES = ("black", "white", "unused")


@pytest.fixture(scope="session")
def brightness():
    """Return a network that calls an image white if its mean is above one half, else black, and never unused."""
    model = Sequential([Conv(1, 1), GlobalAvgPool(), Dense(3)])
    variables = {
        "params": {
            "layers_0": {"kernel": np.full((1, 1, 3, 1), 1 / 3, np.float32), "bias": np.zeros(1, np.float32)},
            "layers_2": {
                "kernel": np.array([[-20.0, 20.0, 0.0]], np.float32),
                "bias": np.array([10.0, -10.0, -30.0], np.float32),
            },
        }
    }
    return Trained(Config(), model, variables, 7, Preprocessing((4, 4, 3), (0.0,) * 3, (1.0,) * 3, CLASSES))


@pytest.fixture
def tree(tmp_path):
    """Return a folder of class folders: five images, one of them in the wrong class, and files that are no images."""
    root = tmp_path / "tree"
    for name, value in (
        ("black/1.png", 0),
        ("black/deep/2.jpg", 10),
        ("black/wrong", 255),  # judged by its content
        ("white/3.bmp", 250),
        ("other/4.png", 240),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (value,) * 3).save(path, format="PNG" if not path.suffix else None)
    for name in ("black/._1.png", "Thumbs.db", "white/notes.txt", ".git/x.png", "__MACOSX/y.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image")
    (root / "empty").mkdir()
    return root
