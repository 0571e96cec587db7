"""Pages and links outside of docs/: the same Markdown is read on a repository host and on the site.

Files of the repository that are pages of the site (`repository_pages` of conf.py) are read from their places; a stub in
docs/repository/ gives each its address. Links to them lead to these pages. A link to another file leads to the
repository's host if `repository_url` is set, and otherwise to a copy of the file in the site. A link to a folder, which
cannot be copied, becomes plain text without a host.
"""

import io
import os
import re
from pathlib import Path
from typing import Any

from PIL import Image

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
STUBS = DOCS / "repository"

SMALL_IMAGE = 20_000  # bytes

CODE = re.compile(r"(^ *(?P<fence>```+|~~~+|:::+).*?^ *(?P=fence)[ \t]*$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\((?P<target>[^)\s]+)\)")
IMAGE_IN_LINK = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
TITLED = re.compile(r'^```(?P<language>\w+) title="(?P<title>[^"]+)"$', re.MULTILINE)
ANCHOR = re.compile(r'^<a id="([^"]+)"></a>$', re.MULTILINE)


def pages(patterns: dict[str, str]) -> dict[Path, str]:
    """Return the name on the site of each page outside of docs/, by the path of its file."""
    found = {}
    for pattern, name in patterns.items():
        files = sorted(ROOT.glob(pattern))
        for file in files:
            inner = file.relative_to(ROOT / pattern.split("*")[0]).with_suffix("").parts if "*" in pattern else ()
            parts = [part for part in inner if part not in ("rows", "README")]
            found[file] = "/".join(["repository", name, *(["_".join(parts) or "all"] if "*" in pattern else [])])
    return found


def write_stubs(app: Any, config: Any) -> None:
    """Give each page outside of docs/ a file in docs/repository/, and remove those of earlier builds."""
    wanted = {DOCS / f"{name}.md": file for file, name in pages(config.repository_pages).items()}
    for stub in STUBS.rglob("*.md"):
        if stub not in wanted:
            stub.unlink()
    for stub, file in wanted.items():
        text = f"<!-- The site reads this page from {file.relative_to(ROOT).as_posix()}. -->\n"
        if not stub.exists() or stub.read_text(encoding="utf-8") != text:
            stub.parent.mkdir(parents=True, exist_ok=True)
            stub.write_text(text, encoding="utf-8")


def read_page(app: Any, docname: str, content: list[str]) -> None:
    """Replace a stub by its page, and the links that lead out of docs/ by links that work on the site."""
    outside = pages(app.config.repository_pages)
    files = {name: file for file, name in outside.items()}
    file = files.get(docname)
    if file is not None:
        app.env.note_dependency(file)
        content[0] = ANCHOR.sub(r"(\1)=", file.read_text(encoding="utf-8"))
        below = f"{docname.removesuffix('benchmark_results')}results/"
        if docname.endswith("benchmark_results") and any(name.startswith(below) for name in files):
            content[0] += "\n\n```{toctree}\n:hidden:\n:glob:\n\nresults/*\n```\n"
    elif not (DOCS / f"{docname}.md").exists():
        return
    page = Page(docname, file or DOCS / f"{docname}.md", outside, app.config.repository_url)
    content[0] = TITLED.sub(r"```{code-block} \g<language>\n:caption: \g<title>\n", content[0])
    codes: list[str] = []

    def mask(found: re.Match[str]) -> str:
        codes.append(found[0])
        return f"\0{len(codes) - 1}\0"

    text = LINK.sub(page.link, CODE.sub(mask, content[0]))
    content[0] = re.sub("\0([0-9]+)\0", lambda found: codes[int(found[1])], text)


class Page:
    """The links of one page.

    Attributes:
      folder: that of the page on the site.
      file: from which the page is read; its links are relative to it.
      outside: names on the site of the pages outside of docs/.
      url: address at which a host shows the repository's files, or "".
    """

    def __init__(self, docname: str, file: Path, outside: dict[Path, str], url: str):
        self.folder, self.file, self.outside, self.url = (DOCS / docname).parent, file, outside, url

    def relative(self, path: Path) -> str:
        return os.path.relpath(path, self.folder).replace(os.sep, "/")

    def link(self, found: re.Match[str]) -> str:
        """Return the Markdown of a link or an image."""
        text, (name, _, anchor) = found["text"], found["target"].partition("#")
        text = IMAGE_IN_LINK.sub(lambda image: f"![{image[1]}]({self.image(image[2])})", text)
        if found["image"]:
            return f"![{text}]({self.image(found['target'])})"
        if not name or re.match(r"[a-z][a-z0-9+.-]*:|/", name):
            return f"[{text}]({found['target']})"
        path, anchor = (self.file.parent / name).resolve(), f"#{anchor}" if anchor else ""
        if path in self.outside:
            return f"[{text}]({self.relative(DOCS / self.outside[path])}.md{anchor})"
        if path.is_relative_to(DOCS) and path.suffix in (".md", ".rst"):
            return f"[{text}]({self.relative(path)}{anchor})"
        if self.url and path.is_relative_to(ROOT):
            return f"[{text}]({self.url.rstrip('/')}/{path.relative_to(ROOT).as_posix()}{anchor})"
        return f"[{text}](path:{self.relative(path)})" if path.is_file() else text

    def image(self, target: str) -> str:
        is_address = re.match(r"[a-z][a-z0-9+.-]*:|/", target)
        return target if is_address else self.relative((self.file.parent / target).resolve())


def shrink_images(app: Any, error: Exception | None) -> None:
    """Store figures with 256 colors, where that is smaller: a page of many figures stays below 2 MB."""
    if error is not None or app.builder.format != "html":
        return
    for path in Path(app.outdir, "_images").glob("*.png"):
        with Image.open(path) as image:
            if image.mode == "P" or path.stat().st_size < SMALL_IMAGE:
                continue
            smaller, buffer = image.convert("RGBA").quantize(256, Image.Quantize.FASTOCTREE), io.BytesIO()
        smaller.save(buffer, "png", optimize=True)
        if len(buffer.getvalue()) < path.stat().st_size:
            path.write_bytes(buffer.getvalue())


def setup(app: Any) -> dict[str, bool]:
    app.add_config_value("repository_url", "", "env")
    app.add_config_value("repository_pages", {}, "env")
    app.connect("config-inited", write_stubs)
    app.connect("source-read", read_page)
    app.connect("build-finished", shrink_images)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
