"""The shape of the source tree: small files and folders, and equations that know nothing of the machine."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("jaxcnn", "experiments", "benchmarks", "tests")
MAX_LINES, MAX_FILES = 400, 16


def sources(*folders: str) -> list[Path]:
    return [p for name in folders for kind in ("*.py", "*.cpp", "*.h") for p in (ROOT / name).rglob(kind)]


def test_no_file_is_long():
    lengths = {path: len(path.read_text().splitlines()) for path in sources(*FOLDERS)}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_folder_is_full():
    folders = [path.parent for path in sources(*FOLDERS)]
    assert {folder: folders.count(folder) for folder in set(folders) if folders.count(folder) > MAX_FILES} == {}


@pytest.mark.parametrize("folder", ["jaxcnn/layers", "jaxcnn/models"])
def test_layers_and_models_test_neither_the_platform_nor_the_environment(folder):
    pattern = re.compile(r"platform|environ|default_backend|devices\(\)")
    assert [path for path in sources(folder) if pattern.search(path.read_text())] == []
