"""The completion scripts offer all commands, flags and names, and run in bash."""

import re
import shutil
import subprocess

import pytest

from jaxcnn.cli import COMMANDS, main


@pytest.fixture(scope="module")
def script():
    from jaxcnn.cli.commands.completion import script

    return script("bash")


def complete(script, *words):
    """Return what bash offers for the last word."""
    asking = f"{script}\nCOMP_WORDS=({' '.join(f'{word!r}' for word in words)}); COMP_CWORD={len(words) - 1}\n"
    asking += '_jaxcnn; printf "%s\\n" "${COMPREPLY[@]}"'
    result = subprocess.run(["bash", "-c", asking], capture_output=True, text=True)
    return result.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_flags_and_names(script):
    assert complete(script, "jaxcnn", "e") == ["eval", "export"]
    assert "--optimizer.learning-rate" in complete(script, "jaxcnn", "train", "--opt")
    assert complete(script, "jaxcnn", "train", "--model", "lenet") == ["lenet5", "lenet5_1998"]
    assert complete(script, "jaxcnn", "train", "--optimizer.name", "la") == ["lars", "lamb"]
    assert complete(script, "jaxcnn", "train", "--optimizer.ns") == ["--optimizer.ns-coeffs", "--optimizer.ns-steps"]
    assert "--optimizer.options" not in script
    assert complete(script, "jaxcnn", "visualize", "g") == ["grad-cam"]
    assert complete(script, "jaxcnn", "datasets", "s") == ["show", "stats"]
    # The shell itself completes file names.
    assert complete(script, "jaxcnn", "eval", "--workdir", "") == []
    assert "--no-progress" in complete(script, "jaxcnn", "train", "--distributed", "--no")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_in_the_help_is_offered(command, script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    in_help = set(re.findall(r"^│?\s*(?:-h, )?(--[a-z][\w.-]*)", capsys.readouterr().out, re.M))
    offered = set(re.search(rf"^ +{command}\) words=\"(.*)\"", script, re.M)[1].split())
    assert "--help" in in_help
    assert in_help <= offered
    assert len(in_help) > 1 or command == "completion"  # which takes a word alone


def test_zsh_reads_what_bash_reads(script, capsys):
    assert main(["completion", "zsh"]) == 0
    out = capsys.readouterr().out
    assert "bashcompinit" in out
    assert script in out


def test_another_shell_is_refused(capsys):
    assert main(["completion", "bsh"]) == 2
    assert main(["completion"]) == 2
    err = capsys.readouterr().err
    assert "invalid choice 'bsh'" in err
    assert err.count("'bash'") == 1
    assert err.count("\n") == 2
