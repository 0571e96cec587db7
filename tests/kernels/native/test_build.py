"""The native library is built once, checked when loaded, and replaced by XLA with one warning where it fails."""

import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from jaxcnn import kernels
from jaxcnn.errors import UsageError
from jaxcnn.kernels import native
from jaxcnn.kernels.native import _build

needs_onednn = pytest.mark.skipif(not native.is_available(), reason="jaxcnn[cpu] is not installed")


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A stand-in for a compiler, which copies a file to its output and counts its calls."""
    folder = tmp_path / "compiler"
    folder.mkdir()
    (folder / "output").write_bytes(b"no library")

    class Compiler:
        output, cache = folder / "output", tmp_path / "cache" / "jaxcnn" / "native"

        @property
        def calls(self) -> int:
            return len((folder / "calls").read_text().splitlines()) if (folder / "calls").exists() else 0

    program = folder / "c++"
    # The output's name comes last.
    program.write_text(f'#!/bin/sh\necho >> {folder}/calls\nfor last; do :; done\ncp {folder}/output "$last"\n')
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Compiler()


@pytest.fixture
def real_library(compiler, monkeypatch):
    """The stand-in compiler with the library of this process as its output."""
    with monkeypatch.context() as patch:
        patch.delenv("XDG_CACHE_HOME")
        patch.delenv("CXX")
        cached = _build._library(*_build._packages())
    compiler.output.write_bytes(cached.read_bytes()[: -_build.DIGEST])
    return compiler


@needs_onednn
def test_is_built_once_and_then_found(real_library):
    for _ in range(3):
        assert _build.load() is not None
    assert real_library.calls == 1
    (library,) = real_library.cache.iterdir()  # nothing half-written is left beside it
    assert library.suffix == ".so"


@needs_onednn
@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_is_built_anew_rather_than_loaded(real_library, damage):
    assert _build.load() is not None
    (library,) = real_library.cache.iterdir()
    whole = library.read_bytes()
    broken = {"cut": whole[: len(whole) // 2], "changed": whole[:99] + b"X" + whole[100:], "empty": b""}[damage]
    library.unlink()  # not in place: the file is mapped into this process
    library.write_bytes(broken)
    assert _build.load() is not None
    assert real_library.calls == 2
    assert library.read_bytes() == whole


def refused(match):
    with pytest.raises(_build.BuildError, match=match) as caught:
        _build.load()
    assert "\n" not in str(caught.value)


@needs_onednn
def test_without_a_compiler_loading_fails_with_one_line(compiler, monkeypatch):
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "/nowhere")
    refused(r"no C\+\+ compiler was found")


@needs_onednn
@pytest.mark.parametrize(
    ("program", "match"),
    [
        ("#!/bin/sh\necho 'a.cpp:1: error: no such header' >&2; exit 1\n", "failed: a.cpp:1: error: no such header"),
        ("#!/bin/sh\nexit 3\n", "failed: no message"),
        ("#!/bin/sh\nexit 0\n", "wrote no library"),
        (None, "invalid ELF header|file too short"),  # the output is no library
    ],
)
def test_a_failing_compiler_is_reported_in_one_line(compiler, tmp_path, program, match):
    if program is not None:
        (tmp_path / "compiler" / "c++").write_text(program)
    refused(match)
    assert not list(compiler.cache.iterdir())  # the next start asks the compiler again


@needs_onednn
def test_a_library_without_our_functions_is_not_kept(compiler, real_library):
    mapped = Path("/proc/self/maps").read_text().split()
    compiler.output.write_bytes(Path(next(name for name in mapped if "/libm.so" in name)).read_bytes())
    refused("wrote a library without the function jaxcnn_implementation")
    assert not list(compiler.cache.iterdir())


@needs_onednn
def test_an_empty_library_in_the_cache_is_built_again(real_library):
    assert _build.load() is not None
    (library,) = real_library.cache.iterdir()
    library.unlink()
    library.write_bytes(hashlib.sha256(b"").digest())  # as an earlier version kept it
    assert _build.load() is not None
    assert real_library.calls == 2


@needs_onednn
def test_a_missing_compiler_is_reported_in_one_line(compiler, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    refused("/nowhere/c\\+\\+")


@needs_onednn
def test_an_unwritable_cache_is_reported_in_one_line(compiler, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refused("Not a directory|File exists")


@pytest.fixture
def broken(monkeypatch):
    """A process in which oneDNN is installed and the library cannot be built."""
    native.is_available.cache_clear()
    monkeypatch.setattr(native, "_library", lambda: _build.BuildError("c++ failed"))
    yield
    native.is_available.cache_clear()


def test_a_library_that_cannot_be_built_is_one_warning_and_xlas_kernels(broken):
    with pytest.warns(RuntimeWarning, match=r"c\+\+ failed.*JAXCNN_KERNELS=xla") as record:
        available = [native.is_available() for _ in range(3)]
    assert not any(available)
    assert len(record) == 1
    assert "\n" not in str(record[0].message)


def test_native_kernels_that_are_required_and_missing_are_an_error(broken):
    with pytest.raises(UsageError, match=r"there are no native kernels: c\+\+ failed"), kernels.use("native"):
        pass


@needs_onednn
@pytest.mark.slow
def test_a_variable_selects_the_kernels_of_a_process():
    program = textwrap.dedent("""
        import jax, jax.numpy as jnp
        from jaxcnn import kernels
        from jaxcnn.layers import Conv
        x, layer = jnp.ones((4, 32, 32, 64)), Conv(64, 3)
        variables = layer.init(jax.random.key(0), x[:1])
        text = jax.jit(layer.apply).lower(variables, x).as_text()
        print(kernels.describe(), "@jaxcnn_convolution" in text, "stablehlo.convolution" in text)
    """)
    natively = "oneDNN+Winograd True False"
    for value, expected in (("auto", natively), ("native", natively), ("XLA", "XLA False True")):
        environment = {**os.environ, "JAXCNN_KERNELS": value, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert (result.returncode, result.stdout.split()) == (0, expected.split()), result.stderr


def test_the_environment_is_left_as_it_was(monkeypatch):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    with _build._waiting_asleep():
        assert os.environ["OMP_WAIT_POLICY"] == "passive"
        assert int(os.environ["GOMP_SPINCOUNT"]) > 0
    assert not set(names) & set(os.environ)


@pytest.mark.parametrize("chosen", [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7")])
def test_a_chosen_way_of_waiting_is_kept(monkeypatch, chosen):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(*chosen)
    before = dict(os.environ)
    with _build._waiting_asleep():
        assert dict(os.environ) == before
    assert dict(os.environ) == before
