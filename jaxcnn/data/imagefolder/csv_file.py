"""Read a table of text from a CSV file, whose first line has the column names."""

import csv
import io
import os
import stat
from pathlib import Path
from typing import NamedTuple

from jaxcnn.data.imagefolder.files import shown
from jaxcnn.data.imagefolder.scan import is_in_kernel_folder
from jaxcnn.errors import UsageError
from jaxcnn.local_path import local_path

SEPARATORS = (",", "\t", ";")


class Csv(NamedTuple):
    """A table of text.

    Attributes:
      path: absolute path of the file.
      columns: dict from the name of each column to its values, without surrounding blanks.
      lines: line number of each row in the file, counted from 1.
    """

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]


def read_csv(path: str) -> Csv:
    """Read a table from a file of values that are separated by commas, tabs or semicolons.

    The first line has the column names. The separator is the character that splits the first line into the largest
    number of names. Values may be quoted. Blank lines are ignored. The encoding is UTF-8, with or without a byte-order
    mark.

    Raises:
      UsageError: if the file does not exist or cannot be read, is not UTF-8, or has no rows. `UsageError` is also
        raised if a column name is empty or occurs twice, a row and the first line differ in the number of values, or a
        quote is not closed.
    """
    file = local_path("csv file", path)
    text = _read_text(file)
    found = Csv(Path(os.path.abspath(file)), {}, [])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), skipinitialspace=True, strict=True)
    try:
        names: list[str] = []
        for row in reader:
            values = [value.strip() for value in row]
            if not any(values):
                continue
            if not names:
                names = values
                _check_names(file, names)
                found.columns.update({name: [] for name in names})
                continue
            if len(values) != len(names):
                raise UsageError(
                    f"line {reader.line_num} of {shown(file)} has {_values(len(values))} instead of {len(names)}. "
                    "Quote values that contain the separator."
                )
            for name, value in zip(names, values, strict=True):
                found.columns[name].append(value)
            found.lines.append(reader.line_num)
    except csv.Error as error:
        raise UsageError(f"cannot read line {reader.line_num} of {shown(file)}: {error}. Correct the line.") from error
    if not found.lines:
        raise UsageError(f"{shown(file)} has no rows. Add a line of column names and a line for each image.")
    return found


def _read_text(file: Path) -> str:
    try:
        if not file.exists():
            raise UsageError(f"CSV file does not exist: {shown(file)}. Give a CSV file that lists the images.")
        if not stat.S_ISREG(os.stat(file).st_mode) or is_in_kernel_folder(file):
            raise UsageError(f"not a CSV file: {shown(file)}. Give a CSV file that lists the images.")
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown(file)} is not UTF-8 at byte {error.start}. Save the file as UTF-8.") from error
    except OSError as error:
        raise UsageError(f"cannot read {shown(file)}: {error.strerror or error}. Make the file readable.") from error


def _separator(text: str) -> str:
    """Return the separator that splits the first line with text into the largest number of values."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return max(SEPARATORS, key=lambda separator: len(next(csv.reader([first], delimiter=separator), [])))


def _check_names(file: Path, names: list[str]) -> None:
    for name in names:
        if not name or names.count(name) > 1:
            problem = f"several columns with the name {name!r}" if name else "a column without a name"
            raise UsageError(f"{shown(file)} has {problem}. Give each column its own name in the first line.")


def _values(count: int) -> str:
    return "1 value" if count == 1 else f"{count} values"
