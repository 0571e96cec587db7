"""Presets of XLA's options: their flags exist, and one that does not is an error of one line and not an abort."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn import startup
from jaxcnn.errors import UsageError
from jaxcnn.startup import presets
from jaxcnn.startup.presets import PRESETS, Preset, check_flags, flags_of, has_flag, plugin_libraries

CLEAN = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", presets.VARIABLE)}
DOCS = Path(__file__).parents[2] / "docs" / "gpu.md"


@pytest.fixture
def without_child(monkeypatch):
    """Flags are accepted without a process that tries them."""
    monkeypatch.setattr(presets, "_refused_by_jaxlib", lambda flags, environment: None)
    monkeypatch.setattr(presets, "plugin_libraries", list)


def test_this_jaxlib_has_the_flags_of_all_presets_and_accepts_their_values():
    flags = {flag.split("=")[0]: flag for preset in PRESETS.values() for flag in preset.flags}
    assert presets._refused_by_jaxlib([*flags.values()], CLEAN) is None
    others = [flag for preset in PRESETS.values() for flag in preset.flags if flag not in flags.values()]
    assert not others or presets._refused_by_jaxlib(others, CLEAN) is None  # other values of the same flags


@pytest.mark.parametrize(
    ("flag", "refused"),
    [("--xla_gpu_no_such_flag=true", "--xla_gpu_no_such_flag=true"), ("--xla_gpu_autotune_level=many", None)],
)
def test_a_flag_that_jaxlib_refuses_is_named_in_one_line(flag, refused, capfd):
    with pytest.raises(UsageError, match=r"XLA preset 'mine' cannot be used: jaxlib .* does not accept --xla_gpu") as e:
        check_flags("mine", ["--xla_gpu_force_conv_nhwc=true", flag], CLEAN)
    assert (refused or flag) in str(e.value)
    assert "\n" not in str(e.value)
    assert ("nhwc" in str(e.value)) == (refused is None)  # XLA does not say which value it cannot parse
    assert capfd.readouterr() == ("", "")


def test_a_check_that_does_not_end_is_an_error(monkeypatch):
    monkeypatch.setattr(presets, "CHECK_SECONDS", 0.5)
    monkeypatch.setattr(presets, "_CHECK", "import time; time.sleep(60)")
    with pytest.raises(UsageError, match="cannot be checked: TimeoutExpired"):
        check_flags("mine", ["--xla_gpu_autotune_level=0"], CLEAN)


def test_the_library_of_a_plugin_is_searched_for_whole_names(tmp_path):
    library = tmp_path / "xla_cuda_plugin.so"
    library.write_bytes(b"\x7fELF\0other\0xla_gpu_one\0no_xla_gpu_two\0xla_gpu_three_more\0")
    found = [name for name in ("one", "two", "three") if has_flag(library, f"--xla_gpu_{name}=true")]
    assert found == ["one"]


def test_a_plugin_without_a_flag_is_named(tmp_path, monkeypatch):
    library = tmp_path / "xla_cuda13" / "xla_cuda_plugin.so"
    library.parent.mkdir()
    library.write_bytes(b"\0xla_gpu_force_conv_nhwc\0")
    monkeypatch.setattr(presets, "_refused_by_jaxlib", lambda flags, environment: None)
    monkeypatch.setattr(presets, "plugin_libraries", lambda: [library])
    check_flags("nhwc", PRESETS["nhwc"].flags, CLEAN)
    with pytest.raises(UsageError, match="GPU plugin xla_cuda13 has no flag --xla_gpu_autotune_level"):
        check_flags("autotune-off", PRESETS["autotune-off"].flags, CLEAN)


def test_installed_plugins_are_found(tmp_path, monkeypatch):
    folder = tmp_path / "jax_plugins" / "xla_cuda13"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "xla_cuda_plugin.so").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("jax_plugins")]:
        monkeypatch.delitem(sys.modules, name)
    assert folder / "xla_cuda_plugin.so" in plugin_libraries()


def test_flags_that_the_user_has_set_stay(without_child):
    environment = {"XLA_FLAGS": "--xla_gpu_autotune_level=5 --xla_dump_to=x"}
    assert flags_of("autotune-off", environment) == ()
    assert flags_of("nhwc", environment) == PRESETS["nhwc"].flags


def test_an_unknown_preset_is_an_error_with_the_closest_name():
    with pytest.raises(UsageError, match="did you mean 'conv-fusion'"):
        flags_of("conv-fusoin", {})


def test_settle_sets_a_preset_before_jax_starts_and_refuses_it_later(without_child, monkeypatch):
    monkeypatch.setattr(startup, "_settings", None)
    monkeypatch.setattr(startup, "_keep_freed_memory", lambda: False)
    monkeypatch.setenv("JAXCNN_XLA_OPTIONS", "0")
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    monkeypatch.setattr(startup, "_jax_has_started", lambda: True)
    with pytest.raises(UsageError, match="cannot be set"):
        startup.settle(xla_preset="nhwc")
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x"
    monkeypatch.setattr(startup, "_jax_has_started", lambda: False)
    settings = startup.settle(xla_preset="nhwc")
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x --xla_gpu_force_conv_nhwc=true"
    assert settings.xla_preset == "nhwc"
    assert str(settings).endswith("; XLA preset: nhwc")
    monkeypatch.setattr(startup, "_jax_has_started", lambda: True)
    assert startup.settle(xla_preset="nhwc").xla_preset == "nhwc"  # its flags are set already
    monkeypatch.setenv("JAXCNN_XLA_PRESET", "no-triton-gemm")
    with pytest.raises(UsageError, match="XLA preset 'no-triton-gemm' cannot be set"):
        startup.settle()
    monkeypatch.setenv("JAXCNN_XLA_PRESET", "")
    assert startup.settle().xla_preset is None


COMMAND = """
import os, sys
import jaxcnn.train as train
train.fit = lambda *args, **options: sys.exit(print(os.environ.get("XLA_FLAGS", "")))
from jaxcnn import cli
sys.argv = ["jaxcnn", "train", *sys.argv[1:]]
cli.run()
"""


@pytest.mark.parametrize(
    ("flags", "variable", "expected"),
    [
        (["--xla-preset", "nhwc"], "", "--xla_gpu_force_conv_nhwc=true"),
        (["--xla-preset", "nhwc"], "autotune-off", "--xla_gpu_force_conv_nhwc=true"),
        ([], "autotune-off", "--xla_gpu_autotune_level=0"),
        ([], "", ""),
    ],
)
def test_the_command_line_sets_a_preset_if_asked(tmp_path, flags, variable, expected):
    environment = {**CLEAN, presets.VARIABLE: variable, "JAXCNN_XLA_OPTIONS": "0", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", COMMAND, *flags, "--workdir", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr


def test_the_command_line_says_what_is_wrong_with_a_preset(monkeypatch, capsys):
    from jaxcnn import cli

    monkeypatch.setitem(PRESETS, "made-up", Preset(("--xla_gpu_no_such_flag=1",), "Nothing."))
    monkeypatch.setattr(startup, "_jax_has_started", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "")
    assert cli._main(["train", "--xla-preset", "made-up"], cli._settle) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "does not accept --xla_gpu_no_such_flag=1" in lines[0]
    assert cli.main(["train", "--xla-preset", "nhwc"]) == 2
    assert "changes the whole process" in capsys.readouterr().err


def test_the_page_lists_every_preset_with_its_flags():
    text = DOCS.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| `([^`]+)` \|", text, re.MULTILINE))
    assert rows == {name: " ".join(preset.flags) for name, preset in PRESETS.items()}
