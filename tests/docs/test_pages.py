"""The Python blocks of the README and of every page below `docs/` run in order: in a new process, on one device.

A block whose info string is exactly `python` runs, and so does a code cell of a tutorial (`{code-cell}`). Others, such
as `python title="Lightning"`, are only shown. Tutorials and pages with the comment `<!-- slow -->` take more than 10 s.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SLOW = "<!-- slow -->"


def program(page):
    """Return the Python blocks of a page as one program, whose line numbers are those of the page."""
    lines, fence, is_option = [], None, False
    for line in page.splitlines():
        is_fence = line.startswith("```")
        runs = fence is not None and (fence == "python" or fence.startswith("{code-cell}")) and not is_fence
        is_option = runs and is_option and line.startswith(":")  # such as `:tags: [hide-cell]`
        lines.append(line if runs and not is_option else "")
        if is_fence:
            fence = line[3:].strip() if fence is None else None
            is_option = True
    return "\n".join(lines) + "\n"


def pages():
    for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))):
        name = path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).with_suffix("").as_posix()
        if name.startswith("repository/"):  # copies of pages of other folders, which the build of the site makes
            continue
        marks = [pytest.mark.slow] if SLOW in path.read_text(encoding="utf-8") else []
        if name.startswith("tutorials/"):  # the build of the documentation site runs all of them
            marks = [pytest.mark.slow, pytest.mark.exhaustive]
        yield pytest.param(path, id=name, marks=marks)


@pytest.mark.parametrize("path", [*pages()])
def test_the_code_of_a_page_runs(path, tmp_path):
    script = tmp_path / f"{path.stem}.py"
    script.write_text(program(path.read_text(encoding="utf-8")), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    command = [sys.executable, "-W", "error", script.name]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-4000:]


def test_code_cells_run_without_their_options():
    page = "```{code-cell} python\n:tags: [hide-cell]\n:name: x\na = 1\n:b\n```\n```{note}\nc\n```\n"
    assert program(page).split("\n") == ["", "", "", "a = 1", ":b", "", "", "", "", ""]


def test_only_python_blocks_run_and_lines_keep_their_numbers():
    blocks = ("```python\na = 1\n```\ntext", '```python title="Lightning"\nb = 1\n```', "```sh\nc\n```")
    page = "\n".join(["# Title", *blocks, "```python\nd = a\n```\n"])
    lines = program(page).splitlines()
    assert {number: line for number, line in enumerate(lines, 1) if line} == {3: "a = 1", 13: "d = a"}


def test_there_are_pages():
    assert {"tasks", "contrastive", "segmentation", "distillation", "multi_head", "sam"} <= {
        path.stem for path in DOCS.glob("*.md")
    }
    folders = {"tutorials", "from", "concepts"}
    assert {path.parent.name for path in DOCS.rglob("*.md")} >= folders
