"""The Python code of Markdown pages."""


def program(page: str) -> str:
    """Return the Python blocks of a page as one program, whose line numbers are those of the page.

    A block runs if its info string is exactly `python`, or if it is a code cell of a text notebook. Others, such as
    `python title="Lightning"`, are only shown. Options of a cell, such as `:tags: [hide-cell]`, are left out.
    """
    lines, fence, is_option = [], None, False
    for line in page.splitlines():
        is_fence = line.startswith("```")
        runs = fence is not None and (fence == "python" or fence.startswith("{code-cell}")) and not is_fence
        is_option = runs and is_option and line.startswith(":")
        lines.append(line if runs and not is_option else "")
        if is_fence:
            fence = line[3:].strip() if fence is None else None
            is_option = True
    return "\n".join(lines) + "\n"
