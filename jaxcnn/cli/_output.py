"""Print the rows of a command as a table or as JSON."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxcnn.errors import printable

LONGEST = 60
"""Maximum number of characters of a name that a table shows on one line."""


def print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print dicts as the rows of a table, with one column for each key, or as JSON if `as_json`."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table()
    for index, name in enumerate(columns):
        # The first column names the row. Long paths in this column are wrapped, so that all columns fit on the screen.
        if index == 0 and max(len(_format_cell(row.get(name))) for row in rows) > LONGEST:
            table.add_column(name, overflow="fold", max_width=LONGEST // 2)
        else:
            table.add_column(name, no_wrap=index == 0)
    for row in rows:
        table.add_row(*(plain(_format_cell(row.get(name))) for name in columns))
    Console().print(table)


def plain(text: object) -> Text:
    """Return untrusted text, such as a path or a class name, in a form that rich prints without interpreting markup.

    >>> plain("[red]").plain
    '[red]'
    """
    return Text(printable(text))


def _format_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
