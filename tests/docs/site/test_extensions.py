"""Docstrings are converted to reStructuredText, and links of pages to links that work on the site."""

import importlib
import sys
from pathlib import Path

import pytest

from jaxcnn.train import Config

ROOT = Path(__file__).parents[3]
pytest.importorskip("sphinx")


FOLDER = ROOT / "docs" / "_extensions"


@pytest.fixture
def extension(monkeypatch):
    """Import an extension of the site by its name, for one test: modules of other tests may have this name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for path in FOLDER.glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    yield importlib.import_module
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_code_becomes_literal_and_public_names_become_links(extension):
    convert = extension("docstrings").convert
    modules = ["jaxcnn.train.evaluate", "jaxcnn.train", "jaxcnn"]
    assert convert(["`[N, H, W, C]` of `x`"], modules) == ["``[N, H, W, C]`` of ``x``"]
    assert convert(["`fit` and `Task.scores`"], modules) == [
        ":py:obj:`fit <jaxcnn.train.fit>` and :py:obj:`Task.scores <jaxcnn.train.Task.scores>`"
    ]
    assert convert(["`evaluate`"], modules) == ["``evaluate``"]  # no link of an entry to itself


def test_code_that_goes_on_in_the_next_line_is_one_literal(extension):
    assert extension("docstrings").convert(["a `b +", "  c` d `e`"], ["", ""]) == ["a ``b + c`` d ``e``"]


def test_markup_of_prose_is_escaped_and_emphasis_is_kept(extension):
    convert = extension("docstrings").convert
    assert convert(["2 * 3, |x|, a_ in *Deep Learning*, 2015; `x`s"], ["", ""]) == [
        r"2 \* 3, \|x\|, a\_ in *Deep Learning*, 2015; ``x``\ s"
    ]


def test_doctests_stay_as_they_are(extension):
    lines = ["Text `x`.", "", ">>> f('`*`')", "'`a` *'"]
    assert extension("docstrings").convert(lines, ["", ""])[2:] == lines[2:]


def test_indented_blocks_become_literal(extension):
    lines = ["Call it:", "", "    import jaxcnn", "", "Args:", "  x: a value"]
    assert extension("docstrings").convert(lines, ["", ""]) == ["Call it::", *lines[1:]]


def test_the_signature_of_a_dataclass_has_types_and_no_functions_that_check_values(extension):
    signature, _ = extension("docstrings").show_fields(None, "class", "Config", Config, None, None, None)
    assert "epochs: float = 30.0" in signature
    assert "<function" not in signature


@pytest.fixture
def page(extension):
    repository = extension("repository")

    def make(url=""):
        outside = {ROOT / "experiments/README.md": "repository/gallery"}
        made = repository.Page("tasks", ROOT / "docs/tasks.md", outside, url)
        return lambda text: repository.LINK.sub(made.link, text)

    return make


def test_links_to_pages_stay_on_the_site(page):
    assert page()("[a](sam.md#b) [c](../experiments/README.md#d)") == "[a](sam.md#b) [c](repository/gallery.md#d)"
    assert page()("[a](https://example.org) [b](#c)") == "[a](https://example.org) [b](#c)"


def test_links_to_files_lead_to_copies_or_to_the_host(page):
    text = "[a](../experiments/tasks/sam.py) and [b](../experiments/tasks)"
    assert page()(text) == "[a](path:../experiments/tasks/sam.py) and b"
    url = "https://example.org/blob/main"
    assert page(url)(text) == f"[a]({url}/experiments/tasks/sam.py) and [b]({url}/experiments/tasks)"


def test_images_in_links_are_converted_too(page):
    text = "[![a](../experiments/x.png)](../experiments/tasks/sam.py)"
    assert page()(text) == "[![a](../experiments/x.png)](path:../experiments/tasks/sam.py)"
