"""Read a table of text from a file of separated values, with a line of column names."""

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
      columns: values of each column by its name, without surrounding blanks.
      lines: number of the line of each row, from 1.
    """

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]


def read_csv(path: str) -> Csv:
    """Read a file of values that are separated by commas, tabs or semicolons.

    The first line has the column names. The separator is the one that gives most names. Values may be quoted. Blank
    lines are left out. The encoding is UTF-8, with or without a byte-order mark.

    Raises:
      UsageError: if the file does not exist or cannot be read, is not UTF-8, has no rows, column names that are equal
        or empty, a row with another number of values than the first line, or a quote that is not closed.
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
        raise UsageError(f"cannot read line {reader.line_num} of {shown(file)}: {error}. Correct it.") from error
    if not found.lines:
        raise UsageError(f"{shown(file)} has no rows. Add a line of column names and a line for each image.")
    return found


def _read_text(file: Path) -> str:
    try:
        if not file.exists():
            raise UsageError(f"csv file does not exist: {shown(file)}. Give the path of a table of images.")
        if not stat.S_ISREG(os.stat(file).st_mode) or is_in_kernel_folder(file):
            raise UsageError(f"not a csv file: {shown(file)}. Give the path of a table of images.")
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown(file)} is not UTF-8 at byte {error.start}. Save it as UTF-8.") from error
    except OSError as error:
        raise UsageError(f"cannot read {shown(file)}: {error.strerror or error}. Allow reading it.") from error


def _separator(text: str) -> str:
    """Return the separator that divides the first line that is not blank into most values."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return max(SEPARATORS, key=lambda separator: len(next(csv.reader([first], delimiter=separator), [])))


def _check_names(file: Path, names: list[str]) -> None:
    for name in names:
        if not name or names.count(name) > 1:
            problem = f"several columns with the name {name!r}" if name else "a column without a name"
            raise UsageError(f"{shown(file)} has {problem}. Give each column a name in the first line.")


def _values(count: int) -> str:
    return "1 value" if count == 1 else f"{count} values"
