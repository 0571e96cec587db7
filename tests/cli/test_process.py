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


# Sends SIGTERM at the first import of a module of this name; the module of the command then waits, in C, as for a
# compilation.
TERMINATED = """
import ctypes, os, signal, sys, time
from jaxcnn import cli

class Terminate:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGTERM)
            ctypes.CDLL(None).sleep(60)

sys.meta_path.insert(0, Terminate())
sys.argv = ["jaxcnn", *{args!r}]
cli.run()
"""


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["summary", "lenet5"], "jaxcnn: stopped by SIGTERM\n"),
        (["train"], "jaxcnn: stopped by SIGTERM; to resume, repeat the command with the same --workdir\n"),
    ],
)
def test_sigterm_before_a_run_handles_it_is_one_line(args, line):
    code = TERMINATED.format(name="tyro", args=args)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (run.returncode, run.stdout, run.stderr) == (143, "", line)


def test_a_forked_process_and_an_ignored_signal_are_left_as_they_are():
    code = """
import os, signal
from jaxcnn.cli import _signals
signal.signal(signal.SIGTERM, signal.SIG_IGN)
_signals.end_by_sigterm("")
assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
signal.signal(signal.SIGTERM, signal.SIG_DFL)
_signals.end_by_sigterm("")
pid = os.fork()
if not pid:
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("-15\n", "")


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
