"""The native library: built once, kept whole, and done without, with one warning, wherever it cannot be."""

import os
import subprocess
import sys
import textwrap
import warnings

import pytest

from jaxcnn.kernels import native
from jaxcnn.kernels.native import _build

needs_onednn = pytest.mark.skipif(not native.is_used(), reason="jaxcnn[cpu] is not installed")


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A compiler that writes what it is told into its output, and how often it was called."""
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
    """The library that this process uses, as the compiler's output."""
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
    with pytest.warns(RuntimeWarning, match=match) as record:
        assert _build.load() is None
    assert len(record) == 1
    assert "\n" not in str(record[0].message)
    assert "JAXCNN_NATIVE=0" in str(record[0].message)


@needs_onednn
def test_without_a_compiler_convolutions_are_xlas_with_one_warning(compiler, monkeypatch):
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "/nowhere")
    refused(r"there is no C\+\+ compiler")


@needs_onednn
@pytest.mark.parametrize(
    ("program", "match"),
    [
        ("#!/bin/sh\necho 'a.cpp:1: error: no such header' >&2; exit 1\n", "failed: a.cpp:1: error: no such header"),
        ("#!/bin/sh\nexit 3\n", "failed: no message"),
        (None, "oneDNN cannot be used"),  # what it wrote is no library
    ],
)
def test_a_compiler_that_fails_is_told_in_one_warning(compiler, tmp_path, program, match):
    if program is not None:
        (tmp_path / "compiler" / "c++").write_text(program)
    refused(match)
    assert program is None or not list(compiler.cache.iterdir())


@needs_onednn
def test_a_compiler_that_is_not_there_is_told_in_one_warning(compiler, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    refused("/nowhere/c\\+\\+")


@needs_onednn
def test_a_cache_that_cannot_be_written_is_told_in_one_warning(compiler, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refused("Not a directory|File exists")


@pytest.mark.parametrize("value", ["0", "false", "OFF"])
def test_a_variable_switches_it_off_without_a_warning(compiler, monkeypatch, value):
    monkeypatch.setenv("JAXCNN_NATIVE", value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _build.load() is None
    assert compiler.calls == 0


@needs_onednn
def test_a_process_that_switches_it_off_has_xlas_convolutions():
    program = textwrap.dedent("""
        import jax, jax.numpy as jnp
        from jaxcnn.kernels import native
        from jaxcnn.layers import Conv
        x, layer = jnp.ones((4, 32, 32, 64)), Conv(64, 3)
        variables = layer.init(jax.random.key(0), x[:1])
        text = jax.jit(layer.apply).lower(variables, x).as_text()
        print(native.is_used(), "@jaxcnn_convolution" in text, "stablehlo.convolution" in text)
    """)
    for value, expected in (("1", "True True False"), ("0", "False False True")):
        environment = {**os.environ, "JAXCNN_NATIVE": value, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert (result.returncode, result.stdout.split()) == (0, expected.split()), result.stderr


def test_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with _build._waiting_asleep():
        assert os.environ["OMP_WAIT_POLICY"] == "passive"
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    with _build._waiting_asleep():
        assert os.environ["OMP_WAIT_POLICY"] == "active"
    assert os.environ["OMP_WAIT_POLICY"] == "active"
