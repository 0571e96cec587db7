"""The command line as a whole: its overview, and help for every command."""

import re

import pytest

from jaxcnn.cli import COMMANDS, main


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_without_a_command_all_are_listed(args, capsys):
    assert main(args) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    out = capsys.readouterr().out
    assert f"jaxcnn {command}" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "None)" not in out
    assert "(default: )" not in out
    # Boxes have edges if the encoding has them.
    flags = re.split(r"^[│ ]*(?=-)", out, flags=re.M)
    assert all(flag.count("(default") <= 1 for flag in flags)


def test_help_states_each_default_once_and_wraps_texts_anew(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["train", "--patience", "5", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    # Two lines in the docstring.
    assert "program of deep residual networks smaller" in out
    workdir = "Run directory. If the directory contains a run with the same configuration, the run is resumed"
    assert f"--workdir {{None}}|STR {workdir} (default: a new" in out
    assert "--no-progress Show a progress bar, and print a line for each epoch" in out
    assert "(on by default; this flag turns it off)" in out
