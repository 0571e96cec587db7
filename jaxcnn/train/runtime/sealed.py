"""Text files of a run that show their own damage: a checksum, and the run that wrote them.

A sealed JSON file has two more keys before its values: `sha256`, over the other ones, and `run`, the identity of the
run. A line of `metrics.jsonl` has a `crc32` after its values. Files and lines without a checksum, which earlier
versions wrote and which people make by hand, are read, and count as unchecked.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcnn.errors import UsageError

SHA256, RUN, CRC32 = "sha256", "run", "crc32"


@dataclass(frozen=True)
class Sealed:
    """The content of a JSON file.

    Attributes:
      values: without the checksum and the run.
      run: identity of the run that wrote the file, or None.
      is_checked: whether the file has a checksum, which is right.
    """

    values: dict[str, Any]
    run: str | None
    is_checked: bool


def identity(config: dict[str, Any]) -> str:
    """Return the identity of a new run: the same for runs of the same configuration, whose files are interchangeable.

    A run keeps its identity when it gets more steps.

    Args:
      config: the fields that make the run, as JSON values.
    """
    return _sha256(config)[:16]


def seal(values: dict[str, Any], run: str | None) -> dict[str, Any]:
    """Return JSON values with a checksum and the identity of the run, if it has one."""
    sealed = {**values} if run is None else {RUN: run, **values}
    return {SHA256: _sha256(sealed), **sealed}


def unseal(path: Path, stored: Any, remedy: str) -> Sealed:
    """Return what `seal` has sealed.

    Args:
      path: of the file, for messages.
      stored: the value in the file.
      remedy: a sentence that says how to repair the file.

    Raises:
      UsageError: if the value is no JSON object, or differs from its checksum.
    """
    if not isinstance(stored, dict):
        raise UsageError(f"{path} is damaged: it holds no JSON object. {remedy}")
    checksum = stored.get(SHA256)
    rest = {name: value for name, value in stored.items() if name != SHA256}
    if SHA256 in stored and checksum != _sha256(rest):
        raise UsageError(
            f"{path} is damaged or was edited: its content does not match its sha256. {remedy} To accept an edit, "
            'remove the line "sha256" from the file.'
        )
    run = rest.pop(RUN, None)
    return Sealed(rest, run if isinstance(run, str) else None, SHA256 in stored)


def line(row: dict[str, Any], run: str | None) -> str:
    """Return a row as a line of `metrics.jsonl`, with its checksum."""
    text = json.dumps(row)
    return f'{text[:-1]}, "{CRC32}": "{_crc32(text, run)}"}}\n'


def row_of(line: str, run: str | None) -> tuple[dict[str, Any], bool]:
    """Return the row in a line of `metrics.jsonl`, and whether its checksum was checked.

    Without the identity of the run there is nothing to check a line against.

    Raises:
      ValueError: if the line is no JSON object, or differs from its checksum.
    """
    try:
        row = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    checksum = row.pop(CRC32, None)
    if checksum is None or run is None:
        return row, False
    if checksum != _crc32(json.dumps(row), run):
        raise ValueError("the line does not match its checksum")
    return row, True


def _sha256(values: dict[str, Any]) -> str:
    try:
        text = json.dumps(values, sort_keys=True)
    except RecursionError:  # nested more deeply than any file of a run
        return ""
    return hashlib.sha256(text.encode()).hexdigest()


def _crc32(text: str, run: str | None) -> str:
    return f"{zlib.crc32(text.encode(), zlib.crc32((run or '').encode())):08x}"
