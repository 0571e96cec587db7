"""Format predictions one after another: as lines of text, CSV, a JSON list, or one JSON object per line."""

import csv
import io
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from jaxcnn.errors import printable
from jaxcnn.predict import Prediction

Format = Literal["table", "csv", "json", "jsonl"]

IMAGE_WIDTH = 40
"""Width of the column of file names in the format "table". Longer names are printed in full."""


def lines(kind: Format, predictions: Iterable[Prediction], top: int) -> Iterator[str]:
    """Yield the predictions as text in the given format, in parts that are printed one after another.

    Args:
      kind: "table" (one line of text per image), "csv", "json" (one list) or "jsonl" (one JSON object per line).
      predictions: predictions in the order of the output.
      top: number of classes in each prediction.
    """
    return WRITERS[kind](predictions, top)


def _table(predictions: Iterable[Prediction], top: int) -> Iterator[str]:
    for prediction in predictions:
        classes = (f"{printable(name)} {probability:.2%}" for name, probability in prediction.classes)
        yield "  ".join([f"{printable(prediction.image):<{IMAGE_WIDTH}}", *classes]) + "\n"


def _csv(predictions: Iterable[Prediction], top: int) -> Iterator[str]:
    places = range(1, top + 1)
    header = ["image", "label", *(f"{what}_{place}" for place in places for what in ("class", "probability"))]
    started = False
    for prediction in predictions:
        if not started:  # print the header only if an image can be read
            yield _csv_row(header)
            started = True
        pairs = [value for name, probability in prediction.classes for value in (name, repr(probability))]
        yield _csv_row([str(prediction.image), prediction.label or "", *pairs])


def _csv_row(cells: list[str]) -> str:
    text = io.StringIO()
    # File names that are not UTF-8 are printed with escapes.
    csv.writer(text, lineterminator="\n").writerow([x.encode("utf-8", "backslashreplace").decode() for x in cells])
    return text.getvalue()


def _json(predictions: Iterable[Prediction], top: int) -> Iterator[str]:
    before = "[\n"
    for prediction in predictions:
        yield before + textwrap.indent(json.dumps(_as_dict(prediction), indent=2), "  ")
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _json_lines(predictions: Iterable[Prediction], top: int) -> Iterator[str]:
    for prediction in predictions:
        yield json.dumps(_as_dict(prediction)) + "\n"


def _as_dict(prediction: Prediction) -> dict[str, Any]:
    label = {} if prediction.label is None else {"label": prediction.label}
    classes = [{"class": name, "probability": probability} for name, probability in prediction.classes]
    return {"image": str(prediction.image), **label, "predictions": classes}


WRITERS: dict[str, Callable[[Iterable[Prediction], int], Iterator[str]]] = {
    "table": _table,
    "csv": _csv,
    "json": _json,
    "jsonl": _json_lines,
}
