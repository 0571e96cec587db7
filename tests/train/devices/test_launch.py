"""The supervisor, with children that are a few lines of Python."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxcnn.errors import RunError
from jaxcnn.train.devices import launch
from jaxcnn.train.devices.launch import Launch, supervise
from jaxcnn.train.devices.waits import HUNG

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and the end of a process with its parent")

CHILD = """
import os, pathlib, signal, sys, time
index, folder = int(sys.argv[sys.argv.index("--process-id") + 1]), pathlib.Path(sys.argv[1])
starts = len(list(folder.glob(f"start-{index}-*")))
(folder / f"start-{index}-{starts}").touch()
die = lambda number: os.kill(os.getpid(), number)
"""


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(launch, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.01)


def run(folder, code, **options):
    return supervise(Launch([sys.executable, "-c", CHILD + code, str(folder)], 2, folder / "checkpoints", **options))


def starts(folder):
    return len([*folder.glob("start-1-*")])


def test_all_done_is_status_0(tmp_path):
    assert run(tmp_path, "") == 0
    assert starts(tmp_path) == 1


def test_all_are_started_again_when_one_is_killed(tmp_path, capfd):
    assert run(tmp_path, "if index and not starts: die(signal.SIGKILL)\nif not starts: time.sleep(60)") == 0
    assert len([*tmp_path.glob("start-0-*")]) == starts(tmp_path) == 2
    assert "process 1 was ended by SIGKILL; all 2 start again from the beginning" in capfd.readouterr().err


def test_who_was_killed_is_named_not_who_noticed(tmp_path, capfd):
    code = "if not starts: die(signal.SIGKILL) if index else sys.exit(75)"
    assert run(tmp_path, code) == 0
    assert "process 1 was ended by SIGKILL" in capfd.readouterr().err


def test_a_run_that_gets_nowhere_is_given_up(tmp_path):
    with pytest.raises(RunError, match="process 0 was ended by SIGSEGV; started 3 times without progress"):
        run(tmp_path, "die(signal.SIGSEGV)", max_restarts=2)
    assert starts(tmp_path) == 3


def test_a_new_checkpoint_counts_as_getting_further(tmp_path):
    code = "(folder / 'checkpoints' / str(starts)).mkdir(parents=True, exist_ok=True)\nif starts < 4: sys.exit(75)"
    assert run(tmp_path, code, max_restarts=1) == 0
    assert starts(tmp_path) == 5


@pytest.mark.parametrize("status", [1, 2, launch.BAD_DEVICE])
def test_what_a_process_says_in_full_knowledge_is_final(tmp_path, capfd, status):
    code = f"if index: print('the disk is full', file=sys.stderr); sys.exit({status})\ntime.sleep(60)"
    assert run(tmp_path, code) == status
    assert starts(tmp_path) == 1
    assert "the disk is full" in capfd.readouterr().err  # though only the first process's output is shown


def test_a_crash_is_tried_again_and_its_words_are_shown(tmp_path, capfd):
    code = "if index and not starts: print('ZeroDivisionError: by hand'); sys.exit(75)\nif not starts: time.sleep(60)"
    assert run(tmp_path, code) == 0
    assert "process 1 ended with status 75 (ZeroDivisionError: by hand); all 2 start again" in capfd.readouterr().err


def test_a_process_that_hangs_is_named_and_all_start_again(tmp_path, capfd):
    code = f"if index and not starts: print('has waited'); sys.exit({HUNG})\nif not starts: time.sleep(60)"
    assert run(tmp_path, code) == 0
    assert "process 1 ended with status 124 (has waited); all 2 start again" in capfd.readouterr().err


@pytest.mark.parametrize("stopped", [False, pytest.param(True, marks=on_linux)])
def test_a_process_that_does_not_answer_is_named_with_its_stack(tmp_path, capfd, stopped):
    code = """
from jaxcnn.train.devices.launch import watch_supervisor
def never_answers():
    if STOPPED: die(signal.SIGSTOP)
    time.sleep(60)
if not starts and index:
    watch_supervisor()
    (folder / "hangs").touch()
    never_answers()
if not starts:
    while not (folder / "hangs").exists(): time.sleep(0.01)
    time.sleep(0.3)
    die(signal.SIGABRT)  # as JAX does without the heartbeat of another process
"""
    assert run(tmp_path, code.replace("STOPPED", str(stopped))) == 0
    said = capfd.readouterr().err
    assert f"process 1 does not answer{' (it is stopped, as by SIGSTOP)' if stopped else ''}: " in said
    assert "in never_answers" in said
    assert "all 2 start again" in said


def test_each_process_is_told_who_it_is_and_gets_devices_of_its_own(tmp_path):
    code = """
names = "JAXCNN_SUPERVISED", "JAX_NUM_CPU_DEVICES", "JAX_CUDA_VISIBLE_DEVICES"
(folder / f"{index}").write_text(" ".join([*sys.argv[2:], *(os.environ[name] for name in names)]))
"""
    assert run(tmp_path, code, devices_per_process=2, name="again") == 0
    first, second = (Path(tmp_path / f"{index}").read_text() for index in range(2))
    assert first.startswith("--coordinator 127.0.0.1:")
    assert first.endswith("--num-processes 2 --process-id 0 again 2 0,1")
    assert second.endswith("--num-processes 2 --process-id 1 again 2 2,3")


LISTENING = """
def sockets(pid):
    links = []
    for path in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(path))
        except FileNotFoundError:
            pass
    return links
lines = [line.split() for name in ("tcp", "tcp6") for line in open(f"/proc/net/{name}").readlines()[1:]]
listening = {f"socket:[{words[9]}]" for words in lines if words[3] == "0A"}
(folder / f"listens-{index}").write_text(str(len(listening.intersection(sockets(os.getppid())))))
"""


@on_linux
def test_the_supervisor_listens_at_no_port(tmp_path):
    assert run(tmp_path, LISTENING) == 0
    before = [(tmp_path / f"listens-{index}").read_text() for index in range(2)]
    with socket.create_server(("127.0.0.1", 0)):  # of this process, which is the supervisor
        assert run(tmp_path, LISTENING) == 0
    after = [(tmp_path / f"listens-{index}").read_text() for index in range(2)]
    assert (before, after) == (["0", "0"], ["1", "1"])


SUPERVISOR = """
import sys
from pathlib import Path
from jaxcnn.train.devices.launch import Launch, supervise
folder, code = sys.argv[1:]
sys.exit(supervise(Launch([sys.executable, "-c", code, folder], 2, Path(folder) / "checkpoints")))
"""


def start_supervisor(folder, code):
    """A supervisor in a process of its own, and the ids of its children once they run."""
    pids = "import os, pathlib\n(pathlib.Path(sys.argv[1]) / f'pid-{os.getpid()}').touch()\n"
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(folder), CHILD + code.replace("READY", pids)])
    while len([*folder.glob("pid-*")]) < 2:
        assert supervisor.poll() is None
        time.sleep(0.01)
    return supervisor, [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]


def test_a_signal_is_passed_on_and_nothing_is_started_again(tmp_path):
    code = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nREADY\ntime.sleep(60)"
    supervisor, _ = start_supervisor(tmp_path, code)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(20) == 143
    assert starts(tmp_path) == 1


def test_a_second_signal_ends_processes_that_do_not_listen(tmp_path):
    code = "signal.signal(signal.SIGINT, signal.SIG_IGN)\nREADY\ntime.sleep(60)"
    supervisor, children = start_supervisor(tmp_path, code)
    supervisor.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert supervisor.poll() is None
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(20) == 130
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.parametrize("stopped", [False, pytest.param(True, marks=on_linux)])
def test_no_process_outlives_its_supervisor_even_if_it_is_stopped(tmp_path, stopped):
    code = "from jaxcnn.train.devices.launch import watch_supervisor\nwatch_supervisor()\nREADY\ntime.sleep(60)"
    supervisor, children = start_supervisor(tmp_path, code)
    for child in children if stopped else []:
        os.kill(child, signal.SIGSTOP)
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    end = time.monotonic() + 20
    while any(_runs(child) for child in children) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(_runs(child) for child in children)


def _runs(pid):
    """Whether there is such a process, and not only what is left of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
