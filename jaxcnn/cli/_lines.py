"""Format rows of text cells as lines with aligned columns."""

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], *, numbers_from: int = 1) -> list[str]:
    """Return one line of text for each row, with aligned columns.

    Args:
      rows: the cells of each row. All rows have the same number of cells.
      numbers_from: index of the first right-aligned column. Columns with a lower index are left-aligned.

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
