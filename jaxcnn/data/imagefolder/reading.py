"""Read the files of an image folder or a table on all cores, and check whether they are intact images."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jaxcnn.data import decode
from jaxcnn.data.imagefolder.files import File
from jaxcnn.data.threads import map_in_threads

MAX_FILE_BYTES = 100_000_000


class Verdict(NamedTuple):
    """Result of checking the content of a file: an intact image, a damaged image, or not an image.

    Attributes:
      image_size: height and width of an intact image, after its orientation is applied; otherwise None.
      digest: SHA-256 of the content.
      damage: reason why an image is damaged; None for an intact image and for a file that is not an image.
    """

    image_size: tuple[int, int] | None
    digest: str = ""
    damage: str | None = None


def read_all(files: Iterable[File]) -> Iterator[tuple[File, bytes, Verdict]]:
    """Read and check each file once. At most two files per thread are in memory at a time."""
    return map_in_threads(_read, files)


def _read(file: File) -> tuple[File, bytes, Verdict]:
    if file.size > MAX_FILE_BYTES:
        return file, b"", _not_decodable(file, f"larger than {MAX_FILE_BYTES:,} bytes")
    try:
        with open(file.path, "rb") as opened:
            content = opened.read(MAX_FILE_BYTES)
    except OSError as error:
        return file, b"", Verdict(None, damage=error.strerror or str(error))
    if not content:
        return file, content, _not_decodable(file, "empty file")
    try:
        height, width = decode.check(content)
    except decode.NotAnImageError as error:
        return file, content, _not_decodable(file, str(error))
    except ValueError as error:
        return file, content, Verdict(None, damage=_one_line(error))
    return file, content, Verdict((height, width), hashlib.sha256(content).hexdigest())


def _not_decodable(file: File, damage: str) -> Verdict:
    """Return the verdict on a file of unknown format. The file counts as damaged if it must be an image."""
    return Verdict(None, damage=damage if file.is_expected_image else None)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
