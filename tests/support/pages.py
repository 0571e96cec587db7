"""The Python code of Markdown pages."""


def program(page: str) -> str:
    """Return the Python blocks of a page as one program, whose line numbers are those of the page.

    A block whose info string is exactly `python` runs. Others, such as `python title="Lightning"`, are only shown.
    """
    lines, fence = [], None
    for line in page.splitlines():
        is_fence = line.startswith("```")
        runs = fence == "python" and not is_fence
        lines.append(line if runs else "")
        if is_fence:
            fence = line[3:].strip() if fence is None else None
    return "\n".join(lines) + "\n"
