"""`jaxcnn models`: list the registered models."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from jaxcnn import models
from jaxcnn.cli._flags import parse
from jaxcnn.cli._output import print_rows
from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.models import Facts
from jaxcnn.weights import TORCHVISION, list_published, published


@dataclass(frozen=True)
class Flags:
    """List the registered models: year, parameters, multiply-adds for one image, and default image size.

    The last column has the number of published weights of the model. `jaxcnn convert` and `--init-from` take the ids of
    published weights.
    """

    pattern: tyro.conf.Positional[str] = "*"
    """Shell pattern of the names of models to list, such as 'resnet*'."""
    family: str | None = None
    """List only the models of one architecture, such as ResNet."""
    sort: Literal["name", "year", "params", "macs", "image"] = "name"
    """Column of the list by which the models are sorted."""
    papers: bool = False
    """Show the authors and title of each model's paper."""
    ids: bool = False
    """List the ids of published weights instead of models. `jaxcnn convert` and `--init-from` take these ids."""
    json: bool = False
    """Print the list as JSON, including the papers."""


def run(args: Sequence[str]) -> None:
    flags = parse(Flags, "models", args)
    found = [models.facts(name) for name in models.list_models(flags.pattern)]
    if not found:
        raise UsageError(f"no model matches {flags.pattern!r}; run `jaxcnn models` to list all models")
    if flags.family is not None:
        families = {facts.family.lower(): facts.family for facts in map(models.facts, models.list_models())}
        if flags.family.lower() not in families:
            raise unknown_name("family of models", flags.family, sorted(families.values()))
        found = [facts for facts in found if facts.family.lower() == flags.family.lower()]
        if not found:
            raise UsageError(f"no model of the family {flags.family} matches {flags.pattern!r}; omit the pattern")
    key = {"image": "image_shape"}.get(flags.sort, flags.sort)
    if flags.ids:
        weights = [row for facts in found for row in _rows_of_weights(facts.name, as_json=flags.json)]
        print_rows(weights, as_json=flags.json)
        if not flags.json:
            of_timm = sum(row["id"].startswith("timm:") for row in weights)
            print(f"{of_timm:,} ids of timm and {len(weights) - of_timm:,} ids of torchvision")
        return
    found.sort(key=lambda facts: getattr(facts, key))  # models with equal values stay in the order of their names
    rows = [_json_row(facts) if flags.json else _table_row(facts, papers=flags.papers) for facts in found]
    print_rows(rows, as_json=flags.json)


def _json_row(facts: Facts) -> dict[str, Any]:
    return {**dataclasses.asdict(facts), "weights": _weights(facts.name), "paper": models.paper(facts.name)}


def _table_row(facts: Facts, *, papers: bool) -> dict[str, Any]:
    height, width, channels = facts.image_shape
    row = {
        "name": facts.name,
        "family": facts.family,
        "year": str(facts.year),
        "params": _short(facts.params),
        "macs": _short(facts.macs),
        "image": f"{height}x{width}x{channels}",
        "ids": len(list_published(model=facts.name)) or None,
    }
    return {**row, "paper": f"{facts.authors}: {facts.title}"} if papers else row


def _rows_of_weights(model: str, *, as_json: bool) -> list[dict[str, Any]]:
    """Return one row for each id of published weights of a model. The JSON rows also have the name of the model."""
    rows = []
    for name in list_published(model=model):
        known = published(name)
        height, width = known.preprocessing.image_size
        rows.append(
            {
                "id": name,
                **({"model": model} if as_json else {}),
                "image": f"{height}x{width}",
                "classes": known.classes,
                "ImageNet %": known.accuracy,
            }
        )
    return rows


def _weights(name: str) -> list[str]:
    return ["torchvision"] if name in TORCHVISION else []


def _short(count: int) -> str:
    """Return a count as short text with the unit k (10^3), M (10^6) or G (10^9).

    >>> _short(25_557_032), _short(4_089_184_256), _short(416_520)
    ('25.6M', '4.09G', '417k')
    """
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
