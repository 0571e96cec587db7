"""Waits that are named, and the end of a process whose wait has no end."""

import subprocess
import sys
import threading

import pytest

from jaxcnn.train.devices import waits

PROGRAM = """
import sys, threading, time
from jaxcnn.train.devices import waits
waits.POLL_SECONDS, waits.RELUCTANCE = 0.05, 0.2
def never_answers():
    threading.Event().wait()
"""


def run(code):
    return subprocess.run([sys.executable, "-c", PROGRAM + code], capture_output=True, text=True, timeout=60)


def test_an_endless_wait_ends_the_process_with_its_stack_and_one_line():
    ended = run(
        "waits.end_when_hung(0.3, 'process 1')\n"
        "with waits.counted(), waits.waiting('training data'):\n"
        "    never_answers()\n"
    )
    assert ended.returncode == waits.HUNG
    *stack, line = ended.stderr.splitlines()
    assert line == "jaxcnn: process 1 has waited 0 s for training data: it ends (--hang-timeout 0.3)"
    assert any("in never_answers" in frame for frame in stack)


def test_of_two_waits_that_begin_at_once_the_one_for_other_processes_lasts_longer():
    code = "waits.RELUCTANCE = 20\nwaits.end_when_hung(0.3, 'process 0', others=1)\n"
    code += "waits._waits[1] = waits.Wait('a step', True, 1.0)\nwaits._waits[2] = waits.Wait('data', False, 1.0)\n"
    ended = run(code + "never_answers()\n")
    assert ended.returncode == waits.HUNG
    assert "has waited 0 s for data" in ended.stderr


def test_waits_that_end_in_time_and_waits_that_are_not_counted_end_nothing():
    ended = run(
        "waits.end_when_hung(0.5, 'process 0')\n"
        "with waits.counted():\n"
        "    for _ in waits.each(iter(range(10)), 'data'):\n"
        "        time.sleep(0.1)\n"  # the run's own work is no wait
        "    with waits.waiting('the first', first=True):\n"
        "        time.sleep(1)\n"
        "with waits.waiting('before the run'):\n"
        "    time.sleep(1)\n"
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGSTOP")
def test_the_time_for_which_a_process_is_stopped_is_no_wait():
    ended = run(
        "import os, signal, subprocess\n"
        "waits.end_when_hung(0.5, 'the run')\n"
        "with waits.counted(), waits.waiting('data'):\n"
        "    subprocess.Popen(['sh', '-c', f'sleep 2; kill -CONT {os.getpid()}'])\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_run_whose_steps_are_long_may_wait_for_each_of_them():
    step = "    with waits.waiting('a step', first={}):\n        time.sleep(1)\n"
    ended = run("waits.end_when_hung(0.3, 'the run')\nwith waits.counted():\n" + step.format(True) + step.format(False))
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_inner_wait_takes_the_place_of_an_outer_one_which_then_begins_anew():
    thread = threading.get_ident()
    with waits.counted():
        with waits.waiting("outer"):
            waits._waits[thread].seconds = 5.0
            with waits.waiting("inner", others=True):
                assert (waits._waits[thread].what, waits._waits[thread].others) == ("inner", True)
            assert (waits._waits[thread].what, waits._waits[thread].seconds) == ("outer", 0.0)
        assert thread not in waits._waits
