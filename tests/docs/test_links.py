"""Pages link to each other, to files of the project, and to nothing that does not exist."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def links(page):
    """Return the relative targets of the links of a page, without anchors."""
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    return {target for target in targets if "://" not in target}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_to_a_file(page):
    assert {target for target in links(page) if not (page.parent / target).exists()} == set()


def test_the_index_lists_every_page():
    assert links(DOCS / "index.md") >= {page.name for page in PAGES} - {"index.md"}
