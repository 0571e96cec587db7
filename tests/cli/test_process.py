"""The console script as a process: its status when it is interrupted, or when nobody reads what it prints."""

import os
import subprocess
import sys

import pytest

# Interrupts the process at the first import of a module of this name, as Ctrl-C would.
INTERRUPTED = """
import os, signal, sys
from jaxcnn import cli

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["jaxcnn", "summary", "lenet5"]
cli.run()
"""


def test_the_script_starts_without_jax():
    code = "import sys, jaxcnn.cli; print([name for name in ('jax', 'numpy', 'flax', 'rich') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["tyro", "jax"])
def test_an_interrupt_during_an_import_is_one_line(name):
    run = subprocess.run([sys.executable, "-c", INTERRUPTED.format(name=name)], capture_output=True, text=True)
    assert run.returncode == 130
    assert run.stdout == ""
    assert run.stderr == "jaxcnn: interrupted before the start\n"


# The table of models is longer than a pipe's buffer only with JSON's indentation; both ways of failing are covered.
@pytest.mark.parametrize("command", ["models", "--help"])
def test_a_reader_that_stops_is_no_error(command):
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run([sys.executable, "-m", "jaxcnn.cli", command], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert run.returncode == 0
    assert run.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        run = subprocess.run([sys.executable, "-m", "jaxcnn.cli", "--help"], stdout=full, stderr=subprocess.PIPE)
    assert run.returncode == 1
    assert run.stderr == b"jaxcnn: output cannot be written: No space left on device\n"
