"""The Python blocks of the README and of every page in `docs/` run in order: in a new process, on one device.

A block whose info string is exactly `python` runs. Others, such as `python title="Lightning"`, are only shown. A page
that takes more than 10 s has the comment `<!-- slow -->`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import program

ROOT = Path(__file__).parents[2]
SLOW = "<!-- slow -->"


def pages():
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        slow = [pytest.mark.slow] if SLOW in path.read_text(encoding="utf-8") else []
        yield pytest.param(path, id=path.stem, marks=slow)


@pytest.mark.parametrize("path", [*pages()])
def test_the_code_of_a_page_runs(path, tmp_path):
    script = tmp_path / f"{path.stem}.py"
    script.write_text(program(path.read_text(encoding="utf-8")), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", script.name]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-4000:]


def test_only_python_blocks_run_and_lines_keep_their_numbers():
    blocks = ("```python\na = 1\n```\ntext", '```python title="Lightning"\nb = 1\n```', "```sh\nc\n```")
    page = "\n".join(["# Title", *blocks, "```python\nd = a\n```\n"])
    lines = program(page).splitlines()
    assert {number: line for number, line in enumerate(lines, 1) if line} == {3: "a = 1", 13: "d = a"}


def test_there_are_pages():
    assert {"tasks", "contrastive", "segmentation", "distillation", "multi_head", "sam"} <= {
        path.stem for path in (ROOT / "docs").glob("*.md")
    }
