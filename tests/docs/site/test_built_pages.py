"""The built site is complete: its links lead somewhere, it needs no other host, and it lists the public API."""

import importlib
import inspect
import pkgutil
import re
import zlib
from html.parser import HTMLParser
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

import jaxcnn

MAX_PAGE = 2_000_000  # bytes, with its images, styles and scripts
NAMED = ("canonical", "index", "search", "next", "prev", "genindex")  # links of a page's head that load nothing
LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}


class Page(HTMLParser):
    """The links, the anchors and the loaded files of a page."""

    def __init__(self, path):
        super().__init__()
        self.path, self.links, self.anchors, self.loaded = path, set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = {name: value for name, value in attrs if value}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        if values.get("rel") not in NAMED:
            self.loaded.update(values[name] for element, name in LOADED if element == tag and name in values)


@pytest.fixture(scope="module")
def pages(site):
    found = {path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}
    assert len(found) > 60
    return found


def target(page, link):
    """Return the file to which a link leads."""
    path = unquote(urlsplit(link).path)
    found = (page.path.parent / path).resolve() if path else page.path
    return found / "index.html" if found.is_dir() else found


def is_elsewhere(link):
    return bool(urlsplit(link).scheme or urlsplit(link).netloc)


def test_links_lead_to_files_and_anchors(pages):
    broken = set()
    for page in pages.values():
        for link in page.links:
            if is_elsewhere(link):
                continue
            found, anchor = target(page, link), unquote(urlsplit(link).fragment)
            missing = anchor and found in pages and anchor not in pages[found].anchors
            if not found.is_file() or missing:
                broken.add((page.path.name, link))
    assert broken == set()


def test_pages_load_nothing_from_other_hosts(pages):
    loaded = {(page.path.name, link) for page in pages.values() for link in page.loaded if is_elsewhere(link)}
    assert {(name, link) for name, link in loaded if not link.startswith("data:")} == set()


def test_no_page_is_large(pages):
    def size(page):
        files = {target(page, link) for link in page.loaded if not is_elsewhere(link)}
        return sum(path.stat().st_size for path in {page.path, *files})

    sizes = {path.name: size(page) for path, page in pages.items()}
    assert {name: bytes_ for name, bytes_ in sizes.items() if bytes_ > MAX_PAGE} == {}


def inventory(site):
    """Return the kinds of the Python objects in `objects.inv`, and the set of those that are only aliases."""
    content = (site / "objects.inv").read_bytes()
    packed = content.split(b"\n", 4)[4]
    kinds, aliases = {}, set()
    for line in zlib.decompress(packed).decode().splitlines():
        name, kind, priority, _ = line.split(" ", 3)
        if kind.startswith("py:"):
            kinds[name] = kind
            aliases |= {name} if priority == "-1" else set()
    return kinds, aliases


# Names of types for annotations, most of which are those of jaxtyping.
NOT_IN_THE_REFERENCE = {"jaxcnn.array_types"}


def public_packages():
    """Return the parts of jaxcnn with `__all__`, and the modules that these lists name."""
    parts = [importlib.import_module(f"jaxcnn.{part.name}") for part in pkgutil.iter_modules(jaxcnn.__path__)]
    found = [jaxcnn, *(part for part in parts if hasattr(part, "__all__") and "._" not in part.__name__)]
    listed = [getattr(package, name) for package in found for name in package.__all__]
    modules = {package.__name__: package for package in [*found, *listed] if isinstance(package, ModuleType)}
    return {name: package for name, package in modules.items() if name not in NOT_IN_THE_REFERENCE}


def public_names():
    return {
        f"{name}.{public}": getattr(package, public)
        for name, package in public_packages().items()
        for public in package.__all__
        if not isinstance(getattr(package, public), ModuleType)
    }


def test_the_reference_lists_all_public_names(site):
    kinds, aliases = inventory(site)
    assert {name for name, kind in kinds.items() if kind == "py:module"} == set(public_packages())
    assert set(public_names()) - (set(kinds) - aliases) == set()


def test_the_reference_lists_nothing_private(site):
    kinds, aliases = inventory(site)
    public = public_names()

    def is_public(name):
        owner, _, member = name.rpartition(".")
        is_member = inspect.isclass(public.get(owner)) and (not member.startswith("_") or member == "__call__")
        return name in public or name in public_packages() or is_member

    assert {name for name in set(kinds) - aliases if not is_public(name)} == set()


def test_functions_and_classes_are_described(site):
    """A signature alone documents nothing: the entry of a function or a class has text."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((site / "reference").glob("*.html")))
    empty = set(re.findall(r'id="([\w.]+)">(?:(?!<dt|<dd>).)*?<dd>\s*</dd>', text, flags=re.DOTALL))
    assert {name for name, value in public_names().items() if callable(value) and name in empty} == set()
