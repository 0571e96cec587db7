"""The release: versions agree, and the sdist and the wheel contain what an installation needs, and nothing else."""

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from datetime import date
from pathlib import Path

import pytest
import yaml

from jaxcnn.version import __version__

ROOT = Path(__file__).parents[1]
HAS_BUILD = all(importlib.util.find_spec(name) for name in ("build", "hatchling"))
needs_build = pytest.mark.skipif(not HAS_BUILD, reason="needs the packages build and hatchling (the extra test)")


def run(*command, cwd, **environment):
    """Run a command, and return its output. Fail with its last lines if it fails."""
    environment = {**os.environ, **environment}
    ended = subprocess.run([*command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-4000:]
    return ended.stdout


def make(source, out, *kinds):
    """Build `kinds` ("--sdist", "--wheel") of the project in the folder `source`; return the files by suffix."""
    run(sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(out), str(source), cwd=out)
    return {path.suffix: path for path in out.iterdir()}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Return the paths of a wheel and an sdist, both built from the working tree."""
    out = tmp_path_factory.mktemp("dist")
    made = make(ROOT, out, "--sdist", "--wheel")
    return made[".whl"], made[".gz"]


def members(path):
    """Return the files of an archive with the SHA-256 of each."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
    with tarfile.open(path) as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        read = {member.name: archive.extractfile(member).read() for member in files}
    return {name.partition("/")[2]: hashlib.sha256(content).hexdigest() for name, content in read.items()}


def in_package(pattern):
    """Return the files of the package in the working tree, as a wheel names them."""
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / "jaxcnn").rglob(pattern) if path.is_file()}


def test_versions_agree():
    sections = re.findall(r"^## (\S+)(?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    released = [(version, day) for version, day in sections if version != "Unreleased"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert released[0] == (__version__, citation["date-released"].isoformat())
    assert citation["version"] == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_the_citation_has_what_its_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {"cff-version", "message", "title", "authors"}
    optional = {"abstract", "date-released", "keywords", "license", "type", "version"}
    assert required <= citation.keys() <= required | optional
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert isinstance(citation["date-released"], date)
    assert citation["license"] == project["license"]
    assert all(author.keys() == {"name"} for author in citation["authors"])
    assert all(isinstance(word, str) for word in citation["keywords"])


def test_the_first_section_of_the_changelog_says_what_breaks():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = text.partition(f"## {__version__}")[2].partition("\n## ")[0]
    assert re.findall(r"^### (.+)$", section, re.MULTILINE)[0] == "What breaks"


def test_the_page_on_stability_names_the_oldest_versions_that_the_package_accepts():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    least = dict(line.partition(">=")[::2] for line in project["dependencies"])
    page = (ROOT / "docs/stability.md").read_text(encoding="utf-8")
    oldest = dict(re.findall(r"^\| ([\w-]+)[^|]* \| ([\d.]+) \| [\d.]+ \|$", page, re.MULTILINE))
    assert oldest.pop("Python") == project["requires-python"].removeprefix(">=")
    assert oldest.keys() == {"jax", "flax", "optax", "orbax-checkpoint"}
    assert oldest == {name: least[name] for name in oldest}


@pytest.mark.slow
@needs_build
def test_the_wheel_has_all_files_of_the_package_and_its_licenses_and_nothing_else(distributions):
    wheel, _ = distributions
    files = members(wheel)
    information = f"jaxcnn-{__version__}.dist-info"
    package = {name for name in files if not name.startswith(information)}
    cached = {name for name in in_package("*") if "__pycache__" in name}
    assert package == in_package("*") - cached
    assert package >= in_package("*.cpp") | in_package("*.h") | {"jaxcnn/py.typed"}
    images = {name for name in package if name.startswith("jaxcnn/data/bundled/")}
    assert any(name.endswith(".array_record") or ".array_record-" in name for name in images)
    licenses = {name.removeprefix(f"{information}/licenses/") for name in files if "/licenses/" in name}
    assert licenses == {"LICENSE"} | {name for name in images if name.endswith("/LICENSE")}
    assert {f"{information}/METADATA", f"{information}/entry_points.txt"} <= files.keys()
    assert {name.partition("/")[0] for name in package} == {"jaxcnn"}


@pytest.mark.slow
@needs_build
def test_the_sdist_builds_the_same_wheel(distributions, tmp_path):
    wheel, sdist = distributions
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    out = tmp_path / "out"
    out.mkdir()
    again = make(tmp_path / f"jaxcnn-{__version__}", out, "--wheel")[".whl"]
    assert members(again) == members(wheel)


@pytest.mark.slow
@needs_build
def test_the_sdist_has_the_pages_and_the_tests(distributions):
    _, sdist = distributions
    files = members(sdist)
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "pyproject.toml"} <= files.keys()
    assert {"docs/index.md", "tests/test_release.py", "experiments/__main__.py", "benchmarks/report.py"} <= files.keys()


@pytest.mark.slow
@needs_build
def test_the_wheel_trains_where_the_repository_is_not(distributions, tmp_path):
    wheel, _ = distributions
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), wheel),
        cwd=elsewhere,
        PYTHONPATH="",
    )
    found = run(sys.executable, "-c", "import jaxcnn; print(jaxcnn.__file__)", cwd=elsewhere, PYTHONPATH=str(site))
    assert Path(found.strip()) == site / "jaxcnn/__init__.py"
    flags = ("--steps", "2", "--no-progress", "--json", "--workdir", "run")
    run(sys.executable, "-m", "jaxcnn.cli", "train", *flags, cwd=elsewhere, PYTHONPATH=str(site))
    assert (elsewhere / "run/result.json").is_file()
