"""Print names and rows as plain text. Names of files and classes may hold any character, so they are no markup."""

from collections.abc import Sequence


def printable(text: object) -> str:
    """Return a text in one line, with an escape sequence in place of each character that cannot be printed.

    >>> printable("a\\nb [red]"), printable("caf\\udce9.png")
    ('a\\\\nb [red]', 'caf\\\\udce9.png')
    """
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in str(text))


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
