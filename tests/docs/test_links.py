"""Every relative link of a page leads to an existing file, and every anchor to a heading of that file."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md", ROOT / "experiments/README.md"]
# The build of the site copies pages of other folders to docs/repository.
PAGES += [path for path in sorted(DOCS.rglob("*.md")) if path.relative_to(DOCS).parts[0] != "repository"]


def without_code_blocks(text):
    return re.sub(r"^( *)(```|~~~).*?^\1\2[ \t]*$", "", text, flags=re.MULTILINE | re.DOTALL)


def links(text):
    """Return the relative targets of the links and images of a page, with their anchors."""
    text = re.sub(r"`[^`\n]+`", "code", without_code_blocks(text))
    inline = re.findall(r"\]\(\s*<?([^)\s>]+)", text)
    references = re.findall(r"^ {0,3}\[[^\]^]+\]:\s*<?([^\s>]+)", text, flags=re.MULTILINE)
    html = re.findall(r"<(?:a|img)\s[^>]*?(?:href|src)=\"([^\"]+)\"", text)
    return {target for target in inline + references + html if not re.match(r"[a-z][a-z0-9+.-]*:|//", target)}


def slug(heading):
    """Return the anchor that GitHub gives a heading: lower case, without punctuation, with a hyphen for each space."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip())
    text = re.sub(r"<[^>]+>", "", text)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def anchors(text):
    """Return the anchors of a page; GitHub numbers the headings that are written more than once."""
    text = without_code_blocks(text)
    found, seen = set(re.findall(r"<[a-z]+\s[^>]*?(?:id|name)=\"([^\"]+)\"", text)), {}
    for heading in re.findall(r"^#{1,6}[ \t]+(.+?)[ \t]*#*$", text, flags=re.MULTILINE):
        name = slug(heading)
        found.add(f"{name}-{seen[name]}" if name in seen else name)
        seen[name] = seen.get(name, 0) + 1
    return found


def leads_somewhere(page, target):
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    if path.suffix == ".md" and path.exists() and anchor:
        return anchor in anchors(path.read_text(encoding="utf-8"))
    return path.exists()


def broken_links(page):
    """Return the links of a page that lead to no file, or to no heading of a Markdown file."""
    return {target for target in links(page.read_text(encoding="utf-8")) if not leads_somewhere(page, target)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    assert broken_links(page) == set()


def in_tables_of_contents(text, folder):
    """Return the pages that the blocks `toctree` of a page in `folder` name, relative to it; `*` may be a pattern."""
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    entries = [line for block in blocks for line in block.splitlines() if line and not line.startswith(":")]
    return {path.relative_to(folder).as_posix() for entry in entries for path in folder.glob(f"{entry}.md")}


def test_the_index_lists_every_page():
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = {target.partition("#")[0] for target in links(text)} | in_tables_of_contents(text, DOCS)
    assert listed >= {page.name for page in DOCS.glob("*.md")} - {"index.md"}


def test_tables_of_contents_name_pages(tmp_path):
    for name in ("a", "folder/b", "folder/c", "d"):
        page = tmp_path / f"{name}.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text("")
    text = "```{toctree}\n:glob:\n\na\nfolder/*\nmissing\n```\n```python\nd\n```\n"
    assert in_tables_of_contents(text, tmp_path) == {"a.md", "folder/b.md", "folder/c.md"}


def test_missing_files_and_headings_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`: c_d, e!\n\n## Twice\n\n## Twice\n\n<a id='x'></a><a id=\"here\"></a>\n\n"
        "[1](#a-b-c_d-e) [2](page.md#twice-1) [3](https://example.org/x) [4](#here) [5](.) `[6](code.md)`\n\n"
        '[7](missing.md) [8](#twice-2) ![9](missing.png "title") [[10](page.md)](lost/) [reference]\n\n'
        '[reference]: gone.md\n\n<img src="none.png">\n\n```md\n# Not a heading\n[11](block.md)\n```\n\n'
        "[12](#not-a-heading)\n",
        encoding="utf-8",
    )
    missing = {"missing.md", "#twice-2", "missing.png", "lost/", "gone.md", "none.png", "#not-a-heading"}
    assert broken_links(page) == missing
