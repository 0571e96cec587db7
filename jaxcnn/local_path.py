"""Paths on this machine that a user gives: expanded, and checked before anything is read or written."""

import os
import re
from pathlib import Path

from jaxcnn.errors import UsageError, printable, shortened

LONGEST_NAME = 255
"""Bytes in one name of a path, the limit of the usual file systems."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def check_path(name: str, path: str | os.PathLike[str]) -> None:
    """Check that the text of a path can name a local file. The file system is not accessed.

    Args:
      name: the flag or argument, for the message.
      path: the path.

    Raises:
      UsageError: if `path` is empty, a URL, too long, or contains a NUL character.

    >>> check_path("--workdir", "gs://bucket/run")
    Traceback (most recent call last):
    ...
    jaxcnn.errors.UsageError: --workdir is a URL: gs://bucket/run. Give a path on this machine.
    """
    text = os.fspath(path)
    if not text:
        raise UsageError(f"{name} is empty. Give a path.")
    if _URL.match(text):
        raise UsageError(f"{name} is a URL: {printable(text)}. Give a path on this machine.")
    if not is_possible(text):
        raise UsageError(
            f"{name} is not a path: {printable(shortened(text))}. "
            f"Give names of at most {LONGEST_NAME} bytes without NUL characters."
        )


def is_possible(path: str) -> bool:
    """Return whether the operating system accepts the text as a path, which need not exist.

    >>> is_possible("runs/first"), is_possible("a" * 300), is_possible("a\\0b")
    (True, False, False)
    """
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return b"\0" not in encoded and len(encoded) < 4096 and all(len(x) <= LONGEST_NAME for x in encoded.split(b"/"))


def local_path(name: str, path: str | os.PathLike[str]) -> Path:
    """Return the path of a file or folder, with `~` expanded. It need not exist.

    Args:
      name: the flag or argument, for the message.
      path: the path that the user gave.

    Raises:
      UsageError: as `check_path`; or the user in `~USER` is unknown; or a parent is not a folder or cannot be entered.
    """
    check_path(name, path)
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:
        raise UsageError(f"{name} names an unknown home directory: {printable(path)}. Give the full path.") from None
    check_path(name, expanded)
    try:
        expanded.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        why = f"{printable(expanded)} ({error.strerror})"
        raise UsageError(f"{name} cannot be used: {why}. Give another path.") from None
    return expanded


def local_folder(name: str, path: str | os.PathLike[str]) -> Path:
    """Return the path of a folder, with `~` expanded. It need not exist.

    Raises:
      UsageError: as `local_path`; or the path exists and is not a folder.
    """
    folder = local_path(name, path)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{name} is not a folder: {printable(folder)}. Give a folder.")
    return folder
