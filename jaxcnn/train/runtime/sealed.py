"""Seal the JSON files of a run: add a checksum, which reveals damage, and the identity of the run that wrote the file.

A sealed JSON file begins with the keys `sha256`, the checksum of all other keys, and `run`, the identity of the run. A
line of `metrics.jsonl` has the key `crc32` after its values. Files and lines without a checksum are accepted, and count
as unchecked. Earlier versions wrote files without a checksum, and users may write such files.
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
    """The content of a sealed JSON file.

    Attributes:
      values: the values in the file, without the checksum and the identity of the run.
      run: identity of the run that wrote the file, or None if the file does not store an identity.
      is_checked: whether the file has a checksum that matches its content.
    """

    values: dict[str, Any]
    run: str | None
    is_checked: bool


def identity(config: dict[str, Any]) -> str:
    """Return the identity of a new run, a hash of its configuration.

    Runs with the same configuration have the same identity: their files are interchangeable. A run keeps its identity
    if the user increases its number of steps.

    Args:
      config: the fields of the configuration that change the results of the run, as JSON values.
    """
    return _sha256(config)[:16]


def seal(values: dict[str, Any], run: str | None) -> dict[str, Any]:
    """Return JSON values with a checksum, and with the identity `run` if it is not None."""
    sealed = {**values} if run is None else {RUN: run, **values}
    return {SHA256: _sha256(sealed), **sealed}


def unseal(path: Path, stored: Any, remedy: str) -> Sealed:
    """Verify the checksum of a sealed JSON file, and return its content.

    Args:
      path: path of the file, for error messages.
      stored: the JSON value in the file.
      remedy: a sentence for error messages that says how to repair the file.

    Raises:
      UsageError: if the value is not a JSON object, or does not match its checksum.
    """
    if not isinstance(stored, dict):
        raise UsageError(f"{path} is damaged: its content is not a JSON object. {remedy}")
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
    """Return a row as a line of `metrics.jsonl`, with a checksum."""
    text = json.dumps(row)
    return f'{text[:-1]}, "{CRC32}": "{_crc32(text, run)}"}}\n'


def row_of(line: str, run: str | None) -> tuple[dict[str, Any], bool]:
    """Return the row in a line of `metrics.jsonl`, and whether the checksum of the line was verified.

    The checksum covers the identity of the run. If `run` is None, the checksum is not verified.

    Raises:
      ValueError: if the line is not a JSON object, or does not match its checksum.
    """
    try:
        row = json.loads(line)
    except RecursionError:
        raise ValueError("the JSON of the line is nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("the line is not a JSON object")
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
