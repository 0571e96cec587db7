"""Stored facts about the registered models: papers and published sizes."""

import functools
import importlib.resources
import json
import re
from dataclasses import dataclass

_PAPER = re.compile(r"(?P<family>.+?) \((?P<authors>.+?): (?P<title>.+), (?P<year>\d{4})\)")


@dataclass(frozen=True)
class Facts:
    """Paper, size and image shape of a model with its default fields.

    Attributes:
      name: name of the model.
      family: name of the architecture, such as "ResNet".
      authors: authors of the paper.
      title: title of the paper.
      year: year of the paper.
      params: number of trainable parameters.
      macs: multiply-adds for one image.
      image_shape: `(H, W, C)` of the images.

    >>> from jaxcnn.models import Facts, facts
    >>> isinstance(facts("resnet50"), Facts), facts("resnet50").year, facts("resnet50").image_shape
    (True, 2015, (224, 224, 3))
    """

    name: str
    family: str
    authors: str
    title: str
    year: int
    params: int
    macs: int
    image_shape: tuple[int, int, int]


@functools.cache
def _counts() -> dict[str, dict[str, int]]:
    """Return the parameters and multiply-adds of each model from `counts.json`.

    `tests/models/make_counts.py` writes this file.
    """
    return json.loads((importlib.resources.files("jaxcnn.models") / "counts.json").read_text(encoding="utf-8"))


def facts_of(name: str, paper: str, image_shape: tuple[int, int, int]) -> Facts:
    """Return the `Facts` of a model.

    Args:
      name: name of the model.
      paper: first line of the docstring of the model's file.
      image_shape: `(H, W, C)` of the model's images.
    """
    found = _PAPER.match(paper)
    if found is None:
        raise RuntimeError(f"the docstring of {name} does not begin with the paper of the model: {paper!r}")
    return Facts(
        name=name,
        family=found["family"],
        authors=found["authors"],
        title=found["title"],
        year=int(found["year"]),
        image_shape=image_shape,
        **_counts()[name],
    )
