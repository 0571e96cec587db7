"""Damage to files: in their bytes, in the JSON that they contain, and in the folder around them."""

import dataclasses
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEEP = 100_000

# Values that replace a value in JSON.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 2.5, -0.0, 1e308, 1e-320, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, float("nan"),
    float("inf"), "", " ", "x", "1", "lenet5", "../x", "/dev/null/x", "~nobody5/x", "a\nb", "a\x00b", "\ud800",
    "[/b]", "n" * 300, "9" * 5000, [], {}, [[]], [None], ["x"], [1, 2, 3], [0] * 3, [10**9] * 3, {"x": 1}, {"": None},
    [[[[[[1]]]]]], [1e300] * 3, [-1] * 3, [1.5] * 3, [28, 28],
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Damage:
    """Damage to one item of a case.

    Attributes:
      item: the item, a file or a folder.
      where: which of the item's files, as a fraction of their list.
      seed: seed of the random choices.
    """

    item: str
    where: float
    seed: int

    def inflict(self, folder: Path) -> str:
        """Damage the item in the folder, and return a description."""
        rng = random.Random(self.seed)
        root = folder / self.item
        path = self._choose(root)
        name = path.relative_to(folder)
        if path.is_symlink() or not path.is_file() or rng.random() < 0.15:
            try:
                return f"{name}: {_damage_place(rng, path, inside=path != root)}"
            except OSError as error:  # an earlier damage left something in the way
                return f"{name}: unchanged ({error.strerror})"
        content = path.read_bytes()
        change = rng.choice(_changes_of(path, content))
        path.write_bytes(change(rng, content))
        return f"{name}: {change.__name__.strip('_').replace('_', ' ')}"

    def _choose(self, root: Path) -> Path:
        """Choose a file by its folder, size and name: names in a checkpoint are random, and sorted last."""
        if not root.is_dir() or root.is_symlink():
            return root
        files = sorted(
            (path for path in root.rglob("*") if path.is_file()),
            key=lambda path: (len(path.name) == 32, str(path.parent), path.suffix, path.stat().st_size, path.name),
        )
        # Files in the item's own folder, such as config.json, are read first and chosen more often.
        near = [path for path in files if path.parent == root]
        if near and self.where < 0.4:
            return near[int(self.where / 0.4 * len(near))]
        return files[int(self.where * len(files))] if files else root


def _changes_of(path: Path, content: bytes) -> list[Callable[[random.Random, bytes], bytes]]:
    """Return the changes that suit a file; those of its format come several times."""
    if content[:1] in (b"{", b"["):
        return [*BYTES, *_TEXT, *[_swap_json_value] * 12, *[_drop_json_key, _add_json_key, _wrap_json] * 2]
    if path.suffix == ".py":
        return [_other_recipe, _other_recipe, *BYTES, *_TEXT]
    if path.suffix == ".safetensors":
        return [*BYTES, *[_change_header] * 8]
    if content[:2] == b"PK":
        return [*BYTES, *[_change_entry] * 8]
    return list(BYTES)


def _flip_bits(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip_bits_near_the_start(rng: random.Random, content: bytes) -> bytes:
    return _flip_bits(rng, content[:64]) + content[64:]


def _truncate(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _truncate_a_little(rng: random.Random, content: bytes) -> bytes:
    return content[: -rng.choice([1, 2, 4, 8])]


def _delete_a_part(rng: random.Random, content: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.choice([1, 4, 64, 1000]) :]


def _repeat_a_part(rng: random.Random, content: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    part = content[start : start + rng.choice([1, 8, 64, 5000])]
    return content[:start] + part * rng.choice([2, 3, 50]) + content[start:]


def _overwrite_a_part(rng: random.Random, content: bytes) -> bytes:
    start, size = rng.randrange(len(content) + 1), rng.choice([1, 4, 16, 256])
    part = rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size)])
    return content[:start] + part + content[start + size :]


def _replace_by_noise(rng: random.Random, content: bytes) -> bytes:
    return rng.randbytes(rng.choice([1, 8, 100, len(content)]))


def _empty(rng: random.Random, content: bytes) -> bytes:
    return b""


def _replace_by_zeros(rng: random.Random, content: bytes) -> bytes:
    return bytes(rng.choice([1, len(content), 1_000_000]))


BYTES = (
    _flip_bits,
    _flip_bits_near_the_start,
    _truncate,
    _truncate_a_little,
    _delete_a_part,
    _repeat_a_part,
    _overwrite_a_part,
    _replace_by_noise,
    _empty,
    _replace_by_zeros,
)


def _nest_deeply(rng: random.Random, content: bytes) -> bytes:
    return rng.choice([b"[" * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP, b"(" * 500 + b")" * 500])


def _add_byte_order_mark(rng: random.Random, content: bytes) -> bytes:
    return b"\xef\xbb\xbf" + content


def _encode_otherwise(rng: random.Random, content: bytes) -> bytes:
    text = content.decode("utf-8", "replace")
    return text.encode(rng.choice(["utf-16", "utf-32", "utf-7", "cp037"]), "replace")


def _add_invalid_utf8(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice([b"\xff\xfe", b"\xed\xa0\x80", b"\x00", b"\xc3"]) + content[at:]


def _add_text(rng: random.Random, content: bytes) -> bytes:
    return content + rng.choice([b"}", b"x", b"\n\n{}", b"\x00", b"9" * 5000])


def _replace_by_json(rng: random.Random, content: bytes) -> bytes:
    return rng.choice(
        [b"null", b"1", b'"x"', b"[]", b"{}", b"[{}]", b"[null]", b"NaN", b"1e400", b"9" * 5000, b"[1, 2"]
    )


_TEXT = (_nest_deeply, _add_byte_order_mark, _encode_otherwise, _add_invalid_utf8, _add_text, _replace_by_json)


def _change_json(content: bytes, change: Callable[[Any], Any]) -> bytes:
    """Change a JSON document, or the first line of several documents."""
    first, newline, rest = content.partition(b"\n") if content.count(b"}\n{") else (content, b"", b"")
    try:
        document = json.loads(first)
    except (ValueError, RecursionError):  # damaged before
        return content + b","
    return json.dumps(change(document)).encode("utf-8", "replace") + newline + rest


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return all pairs of a container and a key or index in it, at any depth."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place for key in keys for place in ((value, key), *_places(value[key]))]


def _swap_json_value(rng: random.Random, content: bytes) -> bytes:
    def change(document: Any) -> Any:
        places = _places(document)
        for _ in range(rng.choice([1, 1, 1, 2, 5]) if places else 0):
            container, key = rng.choice(places)
            if isinstance(container, list) and key >= len(container):
                continue
            container[key] = rng.choice(ODD_VALUES)
        return document if places else rng.choice(ODD_VALUES)

    return _change_json(content, change)


def _drop_json_key(rng: random.Random, content: bytes) -> bytes:
    def change(document: Any) -> Any:
        if places := _places(document):
            container, key = rng.choice(places)
            del container[key]
        return document

    return _change_json(content, change)


def _add_json_key(rng: random.Random, content: bytes) -> bytes:
    def change(document: Any) -> Any:
        containers = [document, *(container[key] for container, key in _places(document))]
        container = rng.choice([c for c in containers if isinstance(c, dict | list)] or [{}])
        if isinstance(container, list):
            container.insert(rng.randrange(len(container) + 1), rng.choice(ODD_VALUES))
        else:
            container[rng.choice(["", "x", "model", "__class__", "rows", "\ud800", "n" * 300])] = rng.choice(ODD_VALUES)
        return document

    return _change_json(content, change)


def _wrap_json(rng: random.Random, content: bytes) -> bytes:
    return _change_json(content, lambda document: rng.choice([[document], {"x": document}, [document] * 2]))


def _change_header(rng: random.Random, content: bytes) -> bytes:
    """Change the JSON header of a safetensors file, or its recorded length."""
    size = int.from_bytes(content[:8], "little")
    if rng.random() < 0.2:
        wrong = rng.choice([0, 1, max(size - 1, 0), size + 1, len(content), 2**31, 2**63, 2**64 - 1])
        return wrong.to_bytes(8, "little") + content[8:]
    change = rng.choice([_swap_json_value, _swap_json_value, _drop_json_key, _add_json_key, _wrap_json, *_TEXT])
    header = change(rng, content[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def _change_entry(rng: random.Random, content: bytes) -> bytes:
    """Change, drop or rename an entry of a zip archive, or compress it."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # damaged before, which zipfile reports by exceptions of many types
        entries = []
    if not entries:
        return _flip_bits(rng, content)
    at, way = rng.choice([0, 0, rng.randrange(len(entries))]), rng.random()
    name, data = entries.pop(at)
    if way < 0.7:
        entries.insert(at, (name, rng.choice(BYTES)(rng, data)))
    elif way < 0.85:
        entries.insert(at, (rng.choice(["../x", "/x", "", "x", name.upper(), "n" * 300, "a\\b"]), data))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", rng.choice([zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED])) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return written.getvalue()


RECIPES = (
    "", "config = 3", "config = None", "x = 1", "config = (", "def f(:\n", "import nothing_like_it", "1 / 0",
    "raise SystemExit", "exit(3)", "raise KeyError", "raise ValueError('a\\nb')", "import sys; sys.exit('x')", "\x00",
    "print('[/b]'); config = 1", "config = {'model': 'lenet5'}", "\tx = 1\n y = 2", "config: int", "raise Exception",
    "assert False", "async def f(): yield", "def f(): return f()\nf()", "class config: pass",
    "from jaxcnn.train import Config as config", "raise BaseException", "open('nowhere')",
)  # fmt: skip
FIELDS = (
    "np.float32(1)", "np.int64(1)", "np.bool_(True)", "np.zeros(3)", "None", "'x'", "b'x'", "-1", "10**30",
    "float('nan')", "1.5", "()", "(1,)", "[]", "{}", "object()", "lambda: 0", "Config", "True", "'flip flip'",
    "('flip', 3)", "1j", "range(3)", "{1}", "'\\ud800'", "OptimizerConfig('x')",
)  # fmt: skip


def _other_recipe(rng: random.Random, content: bytes) -> bytes:
    """Return another program, or the recipe with fields of odd values."""
    if rng.random() < 0.4:
        return rng.choice(RECIPES).encode()
    from jaxcnn.train import Config

    names = [*sorted(vars(Config())), "epoch", "lr"]
    fields = ", ".join(f"{name}={rng.choice(FIELDS)}" for name in rng.sample(names, rng.choice([1, 1, 2])))
    imports = "import numpy as np\nfrom jaxcnn.train import Config, OptimizerConfig\n"
    if rng.random() < 0.3:
        fields = (
            f"optimizer=OptimizerConfig('adam', {rng.choice(['b1', 'eps', 'learning_rate', 'x'])}={rng.choice(FIELDS)})"
        )
    return f"{imports}config = Config({fields})\n".encode("utf-8", "replace")


def _damage_place(rng: random.Random, path: Path, *, inside: bool) -> str:
    """Remove, replace, rename or link a file, or add another beside it, and return a description."""
    ways = ["removed", "a folder", "a dangling link", "a link to itself", "a link to another place"]
    if inside:
        ways += [
            "renamed",
            "renamed",
            "beside it a file",
            "beside it a folder",
            "its folder removed",
            "its folder renamed",
        ]
    way = rng.choice(ways)
    names = [
        "._x.png",
        "Thumbs.db",
        ".DS_Store",
        "x.PNG",
        "x",
        "[red].png",
        "cat ",
        "a\nb",
        "n" * 250,
        os.fsdecode(b"\xff\xfe"),
        "9",
        "\u65e5\u672c.jpg",
    ]
    name = rng.choice(names)
    if way == "renamed":
        path.rename(path.with_name(name))
    elif way == "beside it a file":
        path.with_name(name).write_bytes(rng.choice([b"", b"x", path.read_bytes() if path.is_file() else b"x"]))
    elif way == "beside it a folder":
        path.with_name(name).mkdir()
    elif way == "its folder removed":
        shutil.rmtree(path.parent)
    elif way == "its folder renamed":
        path.parent.rename(path.parent.with_name(name))
    else:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if way == "a folder":
            path.mkdir()
        elif way == "a dangling link":
            path.symlink_to("not-there")
        elif way == "a link to itself":
            path.symlink_to(path.name)
        elif way == "a link to another place":
            path.symlink_to("/proc/self")
    return way if "renamed" not in way and "beside" not in way else f"{way} {name!r}"
