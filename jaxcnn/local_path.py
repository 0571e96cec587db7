"""Expand and check the paths of local files that a user gives, before the files are read or written."""

import os
import re
from pathlib import Path

from jaxcnn.errors import UsageError, printable, shortened

LONGEST_NAME = 255
"""Maximum number of bytes in one component of a path, which is the limit of common file systems."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def check_path(name: str, path: str | os.PathLike[str]) -> None:
    """Check that the text of a path can name a local file. The file system is not accessed.

    Args:
      name: the flag or argument that gave the path, for error messages.
      path: the path to check.

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
            f"Give a path without NUL characters, whose file names have at most {LONGEST_NAME} bytes."
        )


def is_possible(path: str) -> bool:
    """Return whether the operating system accepts the text as a path. The path does not have to exist.

    >>> is_possible("runs/first"), is_possible("a" * 300), is_possible("a\\0b")
    (True, False, False)
    """
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:  # the text contains half of a surrogate pair
        return False
    return b"\0" not in encoded and len(encoded) < 4096 and all(len(x) <= LONGEST_NAME for x in encoded.split(b"/"))


def local_path(name: str, path: str | os.PathLike[str]) -> Path:
    """Return the path of a file or folder, with `~` expanded. The file or folder does not have to exist.

    Args:
      name: the flag or argument that gave the path, for error messages.
      path: the path that the user gave.

    Raises:
      UsageError: if `check_path` rejects the path, if the user in `~USER` is unknown, or if a parent of the path is not
        a folder or cannot be accessed.
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
    """Return the path of a folder, with `~` expanded. The folder does not have to exist.

    Raises:
      UsageError: if `local_path` rejects the path, or if the path exists and is not a folder.
    """
    folder = local_path(name, path)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{name} is not a folder: {printable(folder)}. Give a folder.")
    return folder
