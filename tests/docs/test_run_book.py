"""The commands of the run book, the tutorials and other pages are parsed by the command line's own parser."""

import re
import shlex
from pathlib import Path

import pytest

from jaxcnn.cli._recipe import recipe_defaults, values_of
from jaxcnn.cli._training_flags import parse_training
from jaxcnn.cli.commands import benchmark, train
from jaxcnn.train.config import Config, validate

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = ["run_book.md", "gpu.md", "start.md", "why.md"]
PAGES += [
    path.relative_to(DOCS).as_posix() for folder in ("from", "tutorials") for path in (DOCS / folder).glob("*.md")
]
# A command ends with its line, or where the shell's syntax goes on.
COMMAND = re.compile(r"^(?:srun |\w+=\S+ )?jaxcnn (train|benchmark(?! compare))\b ?([^\n|]*)", re.MULTILINE)


def commands(name):
    text = (DOCS / name).read_text(encoding="utf-8").replace("\\\n", "")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(kind, flags.strip()) for block in blocks for kind, flags in COMMAND.findall(block)]


@pytest.mark.parametrize(("kind", "flags"), [command for page in sorted(PAGES) for command in commands(page)])
def test_the_flags_of_a_command_are_parsed(kind, flags, monkeypatch):
    monkeypatch.chdir(ROOT)  # recipes are named by their paths in the project
    args = shlex.split(flags, comments=True)
    if kind == "benchmark":
        benchmark.parse(benchmark.Flags, "benchmark", args)
        return
    parsed = parse_training(train.Flags, "train", args, recipe_defaults(train.Flags, args))
    train._check(parsed)
    validate(Config(**values_of(parsed)))


def test_the_pages_have_commands():
    assert len(commands("run_book.md")) >= 8
    assert ("train", "--model resnet50 --dtype bfloat16 --xla-preset nhwc") in commands("gpu.md")
