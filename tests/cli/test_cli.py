"""The command line as a whole: its overview, and help for every command."""

import pytest

from jaxcnn.cli import COMMANDS, main


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_without_a_command_all_are_listed(args, capsys):
    assert main(args) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    assert f"jaxcnn {command}" in capsys.readouterr().out
