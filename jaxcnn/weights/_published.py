"""Published weights by their ids: `torchvision:ResNet50_Weights.IMAGENET1K_V2`, `timm:resnet50.a1_in1k`.

An id stands for a file, its architecture and its preprocessing. Files of torchvision are read from the cache of
`torch.hub`. A file that is missing there is downloaded to this cache. Files of timm are on the Hugging Face hub.

References:
  torchvision 0.28, the `WeightsEnum` of each model; timm 1.0.31, its `pretrained_cfg`.
  `tests/weights/golden/make_ids.py` writes the table `published.json`.
"""

import fnmatch
import functools
import hashlib
import importlib.resources
import json
import os
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.weights import _hub
from jaxcnn.weights.names import TORCHVISION
from jaxcnn.weights.preprocessing import Preprocessing, recorded_with

PREFIXES = ("torchvision:", "timm:")
URL = "https://download.pytorch.org/models/"
SECONDS_TO_CONNECT = 30.0
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Published:
    """Published weights: their architecture, source and preprocessing.

    Attributes:
      name: the id, such as `timm:resnet50.a1_in1k`.
      model: name of the architecture in jaxcnn.
      file: name of the file of torchvision, or "" for weights of timm.
      repository: repository of timm on the Hugging Face hub, or "" for weights of torchvision.
      classes: number of classes of the classifier, or 0 for weights without a classifier.
      accuracy: accuracy on ImageNet in percent, or None if it is not published with the weights.
      preprocessing: preprocessing of the images.

    >>> weights: Published = published("timm:resnet50.a1_in1k")
    >>> weights.model, weights.classes, weights.preprocessing.image_size
    ('resnet50', 1000, (224, 224))
    """

    name: str
    model: str
    file: str
    repository: str
    classes: int
    accuracy: float | None
    preprocessing: Preprocessing


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    return json.loads((importlib.resources.files("jaxcnn.weights") / "published.json").read_text(encoding="utf-8"))


def is_published(name: str) -> bool:
    """Return whether `name` has the form of an id of published weights. The function does not check that the id exists.

    >>> is_published("timm:resnet50.a1_in1k"), is_published("resnet50.pth")
    (True, False)
    """
    return name.startswith(PREFIXES)


def list_published(pattern: str = "*", model: str | None = None) -> list[str]:
    """Return the ids that match a shell pattern such as `timm:*`. With `model`, return only ids of weights for this
    model.

    >>> "timm:resnet50.a1_in1k" in list_published("timm:*", model="resnet50")
    True
    """
    return [name for name in fnmatch.filter(_table(), pattern) if model in (None, _table()[name]["model"])]


def published(name: str) -> Published:
    """Return the architecture, the source and the preprocessing of the published weights with the id `name`.

    Raises:
      UsageError: if the id is unknown. The message suggests the closest id.

    >>> published("torchvision:ResNet50_Weights.IMAGENET1K_V2").file
    'resnet50-11ad3fa6.pth'
    """
    if name not in _table():
        raise unknown_name("id of published weights", name, _table())
    entry = _table()[name]
    return Published(
        name=name,
        model=entry["model"],
        file=entry.get("file", ""),
        repository=entry.get("repository", ""),
        classes=entry["classes"],
        accuracy=entry.get("accuracy"),
        preprocessing=Preprocessing.from_text(json.dumps(entry["preprocessing"])),
    )


def _first_of_each_model() -> dict[str, Preprocessing]:
    """Return, for each model, the preprocessing of its first weights in torchvision (`IMAGENET1K_V1`)."""
    found: dict[str, Preprocessing] = {}
    for name, entry in _table().items():
        first = entry["model"] not in found or name.endswith(".IMAGENET1K_V1")
        if first and entry["model"] in TORCHVISION and "file" in entry:
            found[entry["model"]] = published(name).preprocessing
    return found


PUBLISHED = _first_of_each_model()
"""Preprocessing of torchvision's published weights for each model, for files that do not state their own."""


def recorded(path: Path) -> Preprocessing | None:
    """Return the preprocessing of a weight file, or None if it is not known.

    The first source that states the preprocessing is used: the file itself, timm's `config.json` next to the file, or
    the table of published files, in which the name of the file is looked up.

    Raises:
      UsageError: if the preprocessing in the file or in `config.json` is damaged.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "resnet50-11ad3fa6.pth")  # a name that torchvision uses
    ...     _ = path.write_bytes(b"the weights")
    ...     recorded(path).crop_fraction
    0.9655172413793104
    """
    found = recorded_with(path)
    name = next((name for name, entry in _table().items() if entry.get("file") == path.name), None)
    return published(name).preprocessing if found is None and name is not None else found


def known_preprocessing(source: str, path: Path) -> Preprocessing | None:
    """Return the preprocessing of the published weights `source` if `source` is an id, else of the weight file `path`.

    Raises:
      UsageError: if the id is unknown, or the recorded preprocessing is damaged.

    >>> known_preprocessing("torchvision:ResNet50_Weights.IMAGENET1K_V2", Path("any.pth")).image_size
    (224, 224)
    """
    return published(source).preprocessing if is_published(source) else recorded(path)


def fetch(name: str) -> Path:
    """Return the local path of the published weights `name`. Download the file if this machine has no copy.

    Raises:
      UsageError: if the id is unknown, or the download fails.
    """
    weights = published(name)
    if weights.repository:
        return _hub.fetch(f"{_hub.PREFIX}{weights.repository}")
    path = torch_folder() / weights.file
    if not path.is_file():
        try:
            _download(f"{URL}{weights.file}", path)
        except OSError as error:  # an error of the network or of the disk
            reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
            raise UsageError(
                f"cannot download {name}: {reason}. Copy {URL}{weights.file} to {path}, and repeat the command."
            ) from None
    return path


def torch_folder() -> Path:
    """Return the folder in which `torch.hub` keeps files: below TORCH_HOME, XDG_CACHE_HOME or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch") / "hub" / "checkpoints"


def _download(url: str, path: Path) -> None:
    """Download a file whose name ends in the first eight digits of its SHA-256, as in torchvision.

    Raises:
      OSError: if the download fails, or the SHA-256 is wrong. After an error, there is no file at `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            with urllib.request.urlopen(url, timeout=SECONDS_TO_CONNECT) as answer:
                while chunk := answer.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
            expected = path.stem.rpartition("-")[2]
            if not digest.hexdigest().startswith(expected):
                raise OSError(
                    f"the file should have a SHA-256 that starts with {expected}, but has a different SHA-256"
                )
            file.close()
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
