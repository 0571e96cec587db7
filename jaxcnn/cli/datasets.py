"""`jaxcnn datasets`: list the data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxcnn import data
from jaxcnn.cli.flags import parse
from jaxcnn.cli.output import print_rows
from jaxcnn.errors import UsageError


@dataclass(frozen=True)
class Flags:
    """List the data sets, and which of them are prepared."""

    data_dir: str | None = None
    """Folder of prepared data sets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    json: bool = False
    """Print the list as JSON."""


def run(args: Sequence[str]) -> None:
    flags = parse(Flags, "datasets", args)
    print_rows([_describe(name, flags.data_dir) for name in data.list_datasets(flags.data_dir)], as_json=flags.json)


def _describe(name: str, data_dir: str | None) -> dict[str, Any]:
    try:
        dataset = data.open_dataset(name, data_dir)
    except UsageError:
        return {"name": name, "prepared": False}
    return {
        "name": name,
        "prepared": True,
        "image": "x".join(map(str, dataset.image_shape)),
        "classes": dataset.num_classes,
        "training images": dataset.examples["train"],
        "test images": dataset.examples["test"],
        "folder": str(dataset.directory),
    }
