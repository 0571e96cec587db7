"""Align the columns of rows of plain text."""

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], *, numbers_from: int = 1) -> list[str]:
    """Return rows as lines with aligned columns.

    Args:
      rows: cells of each row.
      numbers_from: index of the first column that is aligned at the right.

    >>> columns([("class", "images"), ("cat", "7")])
    ['class  images', 'cat         7']
    """
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index >= numbers_from else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
