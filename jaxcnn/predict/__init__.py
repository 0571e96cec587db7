"""Classify image files: return class names with probabilities.

>>> import tempfile
>>> from pathlib import Path
>>> import flax.linen as nn
>>> import jax.numpy as jnp
>>> from PIL import Image
>>> from jaxcnn.train import Config, Trained
>>> from jaxcnn.train.runtime.preprocessing import Preprocessing
>>> class Brightness(nn.Module):
...     def __call__(self, x, train):
...         mean = x.mean((1, 2, 3))
...         return jnp.stack([-mean, mean], axis=-1)
>>> preprocessing = Preprocessing((8, 8, 1), (0.5,), (0.25,), class_names=("dark", "bright"))
>>> trained = Trained(Config(), Brightness(), {}, 0, preprocessing)  # or from jaxcnn.train.load_run
>>> with tempfile.TemporaryDirectory() as folder:
...     for name, value in (("night", 10), ("noon", 250)):
...         Image.new("L", (8, 8), value).save(f"{folder}/{name}.png")
...     _ = Path(folder, "notes.txt").write_text("no image")
...     paths: list[Path] = find_images([folder])
...     pixels = read_image(paths[0], preprocessing)
...     predictions: list[Prediction] = classify(trained, paths, top=1)
...     candidates: list[Candidate] = [*Search([folder])]
...     failures = [found for found in classify_files(trained, candidates) if isinstance(found, Failure)]
>>> pixels.shape, [prediction.classes[0][0] for prediction in predictions]
((8, 8, 1), ['dark', 'bright'])
>>> [failure.path.name for failure in failures], failures[0].is_image
(['notes.txt'], False)
"""

from jaxcnn.predict.classify import Failure, Prediction, classify, classify_files
from jaxcnn.predict.images import read_image
from jaxcnn.predict.search import Candidate, Search, find_images

__all__ = [
    "Candidate",
    "Failure",
    "Prediction",
    "Search",
    "classify",
    "classify_files",
    "find_images",
    "read_image",
]
