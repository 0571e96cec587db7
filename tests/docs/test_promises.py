"""Every promise on the reliability page names a proof that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
PAGES_ON_FAILURE = ("resuming", "damage", "interruptions", "run_book", "devices", "silent_corruption", "security")


def promises():
    section = PAGE.read_text(encoding="utf-8").partition("## Every promise and its proof\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    assert rows[0][0].strip() == "promise"
    return [tuple(cell.strip() for cell in row) for row in rows[1:]]


def campaigns():
    source = (ROOT / "tests" / "faults" / "campaign.py").read_text(encoding="utf-8").partition("CAMPAIGNS:")[2]
    return {*re.findall(r'^    "(\w+)": of_module', source, re.MULTILINE)}


def test_each_promise_names_pages_and_proofs_that_exist():
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    functions, known = {*re.findall(r"^def (test_\w+)\(", tests, re.MULTILINE)}, campaigns()
    for promise, page, proof in promises():
        names = re.findall(r"`([^`]+)`", proof)
        assert names, promise
        for name in names:
            if "/" in name:
                assert (ROOT / name).exists(), name
            elif name.startswith("test_"):
                assert name in functions, name
            else:
                assert name in known, name
        assert page == "this page" or all((PAGE.parent / path).is_file() for path in links(page)), page


def links(page):
    found = re.findall(r"\]\(([^)#]+)[^)]*\)", page)
    assert found, page
    return found


def test_each_campaign_and_each_page_on_failure_has_promises():
    text = "\n".join(" | ".join(row) for row in promises())
    assert [name for name in sorted(campaigns()) if f"`{name}`" not in text] == []
    assert [name for name in PAGES_ON_FAILURE if f"({name}.md" not in text] == []
    assert len(promises()) > 60
