"""`jaxcnn predict`: classify images."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import tyro

from jaxcnn import predict
from jaxcnn.cli import _predictions
from jaxcnn.cli._flags import parse
from jaxcnn.cli._network_flags import NetworkOptions, check_source, open_network, source_note
from jaxcnn.errors import UsageError, printable
from jaxcnn.predict import Failure, Prediction
from jaxcnn.predict.classify import check_top
from jaxcnn.predict.search import no_images

NUMBER_FLAGS = ("--image-size", "--mean", "--std")
"""Flags whose value is one or more numbers."""

DEFAULT_TOP = 3
FLUSH_EVERY = 64
TOP_5 = 5


@dataclass(frozen=True, kw_only=True)
class Flags(NetworkOptions):
    """Classify images with a trained network, and print the most probable classes of each image as soon as possible.

    Folders are searched at any depth, and image files are recognized by their content. Images are preprocessed as in
    training. If the names of folders are class names, the command also prints the accuracy. If images cannot be read,
    the command lists them at the end, and the exit status is 1. With --model and --weights, the command uses published
    weights instead of a run.
    """

    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, or folders of image files."""
    top: int | None = None
    """Number of classes to print for each image (default: 3, or all if there are fewer)."""
    format: _predictions.Format = "table"
    """Format of the output. table: one line of text per image. csv: a header, then one row per image. json: one list.
    jsonl: one JSON object per line, for tools that read a stream, such as jq."""
    json: bool = False
    """Print one JSON list. This flag is short for --format json."""


@dataclass
class _Tally:
    """Counts of printed predictions and of skipped files, and a list of the files that could not be read."""

    classified: int = 0
    labeled: int = 0
    correct: int = 0
    in_top_5: int = 0
    skipped: int = 0
    bad: list[tuple[object, str]] = field(default_factory=list)


def run(args: Sequence[str]) -> int:
    """Run `jaxcnn predict`. Return the exit status."""
    flags = parse(Flags, "predict", _images_first(args))
    check_source(flags)
    if flags.json and flags.format not in ("table", "json"):
        raise UsageError(f"--json and --format {flags.format} are mutually exclusive. Omit one of the two flags.")
    kind: _predictions.Format = "json" if flags.json else flags.format
    files = predict.Search(flags.images)
    trained = open_network(flags)
    trained = trained.frozen() if trained.can_be_frozen else trained
    top = check_top(min(DEFAULT_TOP, trained.num_classes) if flags.top is None else flags.top, trained.num_classes)
    tally = _Tally()
    predictions = _counted(predict.classify_files(trained, files, top), tally)
    for number, part in enumerate(_predictions.lines(kind, predictions, top)):
        if not tally.classified:
            break  # no image was classified; the empty list is printed below if there is no error
        sys.stdout.write(part)
        if number % FLUSH_EVERY == 0:
            sys.stdout.flush()
    tally.bad += files.unreadable
    if not tally.classified and not tally.bad:
        raise no_images(flags.images)
    if not tally.classified and len(tally.bad) == 1:
        path, reason = tally.bad[0]
        raise UsageError(f"{printable(path)} cannot be read as an image: {printable(reason)}")
    if not tally.classified and kind == "json":
        print("[]")
    sys.stdout.flush()
    notes = _notes(tally, files.hidden, trained.num_classes)
    # In the formats for other programs, standard output contains only rows, so the notes are printed on standard error.
    print("\n".join([source_note(trained, flags), *notes]), file=sys.stdout if kind == "table" else sys.stderr)
    for path, reason in tally.bad:
        print(f"jaxcnn: {printable(path)} cannot be read as an image: {printable(reason)}", file=sys.stderr)
    return 1 if tally.bad else 0


def _images_first(args: Sequence[str]) -> list[str]:
    """Move the images to the start of the arguments, so that no flag uses an image path as one of its values.

    >>> _images_first(["--image-size", "32", "a.png", "2.png", "--json"])
    ['a.png', '2.png', '--image-size', '32', '--json']
    """
    images, flags = [], []
    takes_images, takes_numbers = True, False
    for arg in args:
        if arg.startswith("--"):
            takes_images, takes_numbers = False, arg in NUMBER_FLAGS
        elif takes_numbers and not _is_number(arg):
            takes_images = True
        (images if takes_images else flags).append(arg)
    return [*images, *flags]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "None"
    return True


def _counted(results: Iterator[Prediction | Failure], tally: _Tally) -> Iterator[Prediction]:
    """Yield the predictions in `results`, and count predictions and failures in `tally`."""
    for result in results:
        if isinstance(result, Prediction):
            tally.classified += 1
            if result.rank is not None:
                tally.labeled += 1
                tally.correct += result.rank == 1
                tally.in_top_5 += result.rank <= TOP_5
            yield result
        elif result.is_image:
            tally.bad.append((result.path, result.reason))
        else:
            tally.skipped += 1


def _notes(tally: _Tally, hidden: int, classes: int) -> list[str]:
    """Return the lines to print after the predictions: counts of images and files, and the accuracy."""
    notes = [f"{_count(tally.classified, 'image')} classified"]
    if others := tally.skipped + hidden:
        notes.append(f"{_count(others, 'other file')} skipped (hidden, or not an image)")
    if tally.labeled:
        accuracy = f"top-1 accuracy {tally.correct / tally.labeled:.2%}"
        if classes > TOP_5:
            accuracy += f", top-5 accuracy {tally.in_top_5 / tally.labeled:.2%}"
        notes.append(f"{accuracy} on {_count(tally.labeled, 'image')} in folders with names of classes")
    if tally.bad:
        notes.append(f"{_count(len(tally.bad), 'file')} could not be read")
    return notes


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
