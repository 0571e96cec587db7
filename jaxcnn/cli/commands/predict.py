"""`jaxcnn predict`: classify images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.table import Table

from jaxcnn import predict, train
from jaxcnn.cli._flags import parse


@dataclass(frozen=True)
class Flags:
    """Print the most probable classes of images, predicted by a trained network.

    Images are preprocessed as in training; the run's preprocessing.json describes how.
    """

    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, or folders of image files."""
    workdir: str
    """Run directory."""
    top: int = 3
    """Number of classes to print for each image."""
    json: bool = False
    """Print the predictions as JSON."""


def run(args: Sequence[str]) -> None:
    flags = parse(Flags, "predict", args)
    files = predict.find_images(flags.images)
    predictions = predict.classify(train.load_run(flags.workdir), files, flags.top)
    if flags.json:
        rows = [
            {
                "image": str(prediction.image),
                "predictions": [{"class": name, "probability": p} for name, p in prediction.classes],
            }
            for prediction in predictions
        ]
        print(json.dumps(rows, indent=2))
        return
    table = Table("image", "class", "probability")
    for prediction in predictions:
        for place, (name, probability) in enumerate(prediction.classes):
            table.add_row(str(prediction.image) if place == 0 else "", name, f"{probability:.2%}")
        table.add_section()
    Console().print(table)
