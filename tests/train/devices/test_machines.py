"""Supervisors of several machines: on loopback, with children that are a few lines of Python."""

import concurrent.futures
import contextlib
import json
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from jobs import finish, free_port, process_of, result, start, wait_for_step

from jaxcnn.errors import RunError, UsageError
from jaxcnn.train.devices import launch, machines, rendezvous
from jaxcnn.train.devices.machines import Member, supervise_member
from jaxcnn.train.devices.rendezvous import Answer, Arrival, Host, UnreachableError, ask

CHILD = """
import os, pathlib, signal, sys, time
folder, who = pathlib.Path(sys.argv[1]), int(sys.argv[2])
index, count = (int(sys.argv[sys.argv.index(name) + 1]) for name in ("--process-id", "--num-processes"))
start = len(list(folder.glob(f"{who}-*")))
(folder / f"{who}-{start}").write_text(f"{index} of {count} at " + sys.argv[sys.argv.index("--coordinator") + 1])
die = lambda number: os.kill(os.getpid(), number)
"""
TIMEOUT = 1.5


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(launch, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(rendezvous, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(machines, "LEAVING_SECONDS", 0.5)


def member(folder, process, processes, port, code, **options):
    command = [sys.executable, "-c", CHILD + code, str(folder), f"{process}"]
    options = {"timeout": TIMEOUT, "checkpoints": folder / "checkpoints"} | options
    return Member(command, process, processes, f"127.0.0.1:{port}", **options)


def run(folder, codes, processes=None, **options):
    """Supervise the processes of a job, each in a thread; return their exit statuses or errors.

    `codes` are those of the processes that are there, by index.
    """
    port = free_port()

    def one(process):
        try:
            return supervise_member(member(folder, process, processes or len(codes), port, codes[process], **options))
        except (RunError, UsageError) as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(codes)) as pool:
        return dict(zip(codes, pool.map(one, codes), strict=True))


def parts(folder, process):
    """What the starts of a process were told: "index of count"."""
    return [path.read_text().partition(" at ")[0] for path in sorted(folder.glob(f"{process}-*"))]


def test_all_start_once_and_meet_at_one_new_port(tmp_path):
    assert run(tmp_path, dict.fromkeys(range(3), "")) == {0: 0, 1: 0, 2: 0}
    assert [parts(tmp_path, process) for process in range(3)] == [["0 of 3"], ["1 of 3"], ["2 of 3"]]
    assert len({path.read_text().partition(" at ")[2] for path in tmp_path.iterdir()}) == 1


def test_all_start_again_when_one_dies(tmp_path, capfd):
    others = "if not start: time.sleep(0.2); sys.exit(75)"
    found = run(tmp_path, {0: others, 1: "if not start: die(signal.SIGKILL)", 2: others})
    assert found == {0: 0, 1: 0, 2: 0}
    assert parts(tmp_path, 1) == ["1 of 3", "1 of 3"]
    said = capfd.readouterr().err
    assert "process 1 was ended by SIGKILL; all 3 start again from the beginning" in said
    assert "process 2 ended with status 75 meets the others" in said.replace(", and", "")


def test_those_that_are_there_go_on_without_one_that_stays_away(tmp_path, capfd):
    # The process with index 1 is the one whose machine never comes.
    assert run(tmp_path, {0: "", 2: ""}, processes=3) == {0: 0, 2: 0}
    assert [parts(tmp_path, process) for process in (0, 2)] == [["0 of 2"], ["1 of 2"]]
    assert "process 1 stayed away for 1.5 s; the other 2 start\n" in capfd.readouterr().err


def test_one_that_comes_back_takes_part_in_the_next_start(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    # Process 0 fails until process 1 is there.
    code = "(folder / 'checkpoints' / str(start)).touch()\nif count == 1: time.sleep(0.2); sys.exit(75)"
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(supervise_member, member(tmp_path, 0, 2, port, code))
        while not parts(tmp_path, 0):
            time.sleep(0.01)
        second = pool.submit(supervise_member, member(tmp_path, 1, 2, port, ""))
        assert (first.result(60), second.result(60)) == (0, 0)
    assert parts(tmp_path, 0)[0] == "0 of 1"
    assert parts(tmp_path, 0)[-1] == "0 of 2"
    assert parts(tmp_path, 1) == ["1 of 2"]


def test_the_others_go_on_without_a_device_that_computes_wrong(tmp_path, capfd):
    others = "if count == 3: time.sleep(0.2); sys.exit(75)"
    found = run(tmp_path, {0: others, 1: f"sys.exit({launch.BAD_DEVICE})", 2: others})
    assert found == {0: 0, 1: launch.BAD_DEVICE, 2: 0}
    assert [parts(tmp_path, process) for process in (0, 2)] == [["0 of 3", "0 of 2"], ["2 of 3", "1 of 2"]]
    assert "a device of process 1 computes wrong; the other 2 start again" in capfd.readouterr().err


def test_all_end_if_nobody_knows_which_device_computes_wrong(tmp_path):
    codes = dict.fromkeys(range(2), f"sys.exit({launch.BAD_DEVICE})")
    assert run(tmp_path, codes) == dict.fromkeys(range(2), launch.BAD_DEVICE)


@pytest.mark.parametrize("status", [1, 2])
def test_a_final_status_of_one_ends_all(tmp_path, capfd, status):
    assert run(tmp_path, {0: "sys.exit(75)", 1: f"sys.exit({status})", 2: "sys.exit(75)"}) == dict.fromkeys(
        range(3), status
    )
    assert [len(parts(tmp_path, process)) for process in range(3)] == [1, 1, 1]
    assert capfd.readouterr().err.count(f"process 1 ended with status {status}: see its output") == 2


def test_a_run_that_gets_nowhere_is_given_up_by_all(tmp_path):
    found = run(tmp_path, dict.fromkeys(range(2), "sys.exit(75)"), max_restarts=1)
    assert isinstance(found[0], RunError)
    assert "started 2 times without progress beyond the beginning" in str(found[0])
    assert found[1] == 1


def test_the_end_of_the_first_one_is_one_line_and_a_status_of_its_own(tmp_path, capfd):
    assert run(tmp_path, {1: ""}, processes=2) == {1: launch.TRY_AGAIN}
    assert "process 0 stayed away for 1.5 s: nobody answers at 127.0.0.1, port" in capfd.readouterr().err
    assert parts(tmp_path, 1) == []


def test_a_finished_process_does_not_need_the_first_one(tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "ask", lambda address, arrival, *_: refused(arrival))

    def refused(arrival):
        if arrival.status is not None:
            raise UnreachableError
        return Answer(coordinator="127.0.0.1:1", index=1, count=2)

    assert run(tmp_path, {1: ""}, processes=2) == {1: 0}


def test_a_port_in_use_is_one_line(tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UsageError, match="cannot listen at this address"),
    ):
        supervise_member(member(tmp_path, 0, 2, taken.getsockname()[1], ""))


# The rendezvous


@pytest.fixture
def host():
    port = free_port()
    with Host(f"127.0.0.1:{port}", 3) as host:
        host.address = ("127.0.0.1", port)
        yield host


def start_to_ask(host, arrival, seconds=5.0):
    found = []
    address = f"127.0.0.1:{host.address[1]}"
    thread = threading.Thread(target=lambda: found.append(ask(address, arrival, seconds, lambda: False)))
    thread.start()
    return thread, found


@pytest.mark.parametrize("said", [b"\n", b"{}\n", b"[" * 4000 + b"\n", b"x" * 10_000, b'{"process": "1"}\n', b""])
def test_what_is_no_message_is_hung_up_on(host, said):
    with socket.create_connection(host.address) as stranger:
        stranger.settimeout(20)
        with contextlib.suppress(ConnectionError):
            stranger.sendall(said)
        with contextlib.suppress(OSError):  # "not connected", where the host has hung up already
            stranger.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert stranger.recv(100) == b""
    thread, found = start_to_ask(host, Arrival(1, 3))
    assert host.meet([1], 20, lambda: False) == {1: Arrival(1, 3)}
    host.answer(1, Answer(7))
    thread.join()
    assert found == [Answer(7)]


@pytest.mark.parametrize(
    ("arrival", "says"),
    [
        (Arrival(1, 4), "process 0 has --num-processes 3, but this process has 4"),
        (Arrival(3, 3), "--process-id must be from 1 to 2"),
        (Arrival(0, 3), "--process-id must be from 1 to 2"),
    ],
)
def test_a_supervisor_with_other_numbers_is_refused(host, arrival, says):
    thread, found = start_to_ask(host, arrival)
    thread.join()
    assert found[0].status == 2
    assert says in found[0].line
    assert host.meet([], 0, lambda: False) == {}


def test_one_who_has_hung_up_is_not_waited_for_and_one_who_comes_twice_counts_once(host):
    with socket.create_connection(host.address) as gone:
        gone.sendall(json.dumps({"process": 1, "processes": 3, "status": None}).encode() + b"\n")
        assert host.meet([1], 20, lambda: False) == {1: Arrival(1, 3)}
    deadline = time.monotonic() + 20
    while host.meet([], 0, lambda: False) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert host.meet([], 0, lambda: False) == {}
    first, told_first = start_to_ask(host, Arrival(2, 3))
    assert host.meet([2], 20, lambda: False) == {2: Arrival(2, 3)}
    second, told = start_to_ask(host, Arrival(2, 3, -9))
    first.join()
    assert told_first == [Answer(2, "another process has --process-id 2")]
    assert host.meet([2], 20, lambda: False) == {2: Arrival(2, 3, -9)}
    host.answer(2, Answer(0))
    second.join()
    assert told == [Answer(0)]


def test_a_connection_that_is_lost_is_made_again():
    port = free_port()
    with Host(f"127.0.0.1:{port}", 3) as host:
        host.address = ("127.0.0.1", port)
        thread, found = start_to_ask(host, Arrival(1, 3), 20)
        assert host.meet([1], 20, lambda: False)
    with Host(f"127.0.0.1:{port}", 3) as again:
        assert again.meet([1], 20, lambda: False)
        again.answer(1, Answer(0))
        thread.join()
    assert found == [Answer(0)]


def test_only_loopback_is_listened_at_if_the_address_is_a_loopback_one():
    assert [rendezvous.is_loopback(name) for name in ("127.0.0.1", "localhost", "[::1]", "::1")] == [True] * 4
    assert not any(map(rendezvous.is_loopback, ("10.0.0.1", "host", "::", "", "127.0.0.1.example.org")))
    assert rendezvous.split_address("[::1]:80") == ("::1", 80)
    for address, expected in (("127.0.0.1", ("127.0.0.1",)), ("10.0.0.1", ("::", "0.0.0.0"))):
        with Host(f"{address}:{free_port()}", 2) as host:
            assert host._listener.getsockname()[0] in expected


# Runs. Each supervisor stands for one machine.

STEPS = 60
RUN = f"--steps {STEPS} --checkpoint-every 10 --log-every 5 --no-progress --batch-size".split()
PATIENCE = 60


def start_machine(folder, process, processes, port, batch_size):
    job = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", f"{processes}"]
    job += ["--process-id", f"{process}", "--rendezvous-timeout", f"{PATIENCE}", "--heartbeat", f"{PATIENCE}"]
    return start([*RUN, str(batch_size), "--workdir", str(folder), *job], {"JAX_NUM_CPU_DEVICES": "1"})


def training_rows(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] == "train"]


@pytest.mark.slow
def test_a_run_goes_on_without_a_machine_that_is_lost(tmp_path):
    straight, folder, port = tmp_path / "straight", tmp_path / "run", free_port()
    supervisors = [start_machine(folder, process, 3, port, 240) for process in range(3)]
    child = process_of(supervisors[2], 2)
    wait_for_step(supervisors[0], folder, 12)
    supervisors[2].kill()
    ends = [finish(supervisor) for supervisor in supervisors]
    assert [status for status, _, _ in ends] == [0, 0, -9], ends
    assert not Path(f"/proc/{child}").exists()
    assert f"process 2 stayed away for {PATIENCE} s; the other 2 start again from the checkpoint of step" in ends[0][2]
    found = result(folder)
    assert (found["processes"], found["devices"], found["test_examples"]) == (2, 2, 2000)

    status, _, err = finish(start([*RUN, "240", "--workdir", str(straight)], {"JAX_NUM_CPU_DEVICES": "1"}))
    assert status == 0, err
    rows, expected = training_rows(folder), training_rows(straight)
    assert [row["step"] for row in rows] == [*range(1, STEPS + 1)]
    # Sums are in another order. Other examples would change the first digits.
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], rel=1e-3)
    assert found["test_loss"] == pytest.approx(result(straight)["test_loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_too_few_machines_for_the_batch_are_refused_in_one_line(tmp_path):
    port = free_port()
    supervisors = [start_machine(tmp_path / "run", process, 3, port, 255) for process in (0, 1)]
    for status, out, err in map(finish, supervisors):
        assert (status, out) == (2, "")
        assert err.endswith("jaxcnn: batch_size 255 cannot be divided over 2 devices; use 254 or 256\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_sigterm_to_one_machine_saves_and_the_others_go_on(tmp_path):
    port = free_port()
    supervisors = [start_machine(tmp_path, process, 2, port, 240) for process in range(2)]
    wait_for_step(supervisors[0], tmp_path, 12)
    supervisors[1].send_signal(signal.SIGTERM)
    (status, _, said), (stopped, _, _) = map(finish, supervisors)
    assert (status, stopped) == (0, 143), said
    assert "stopped by SIGTERM at step" in said
    assert f"process 1 stayed away for {PATIENCE} s; process 0 starts again from the checkpoint of step" in said
    assert [row["step"] for row in training_rows(tmp_path)] == [*range(1, STEPS + 1)]
    assert result(tmp_path)["processes"] == 1


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_loss_of_the_first_machine_is_one_line_and_the_same_commands_resume(tmp_path):
    port = free_port()
    first, second = (start_machine(tmp_path, process, 2, port, 240) for process in range(2))
    wait_for_step(first, tmp_path, 12)
    first.kill()
    assert finish(first)[0] == -signal.SIGKILL
    status, _, said = finish(second)
    assert status == launch.TRY_AGAIN, said
    assert said.splitlines()[-1].startswith(f"jaxcnn: process 0 stayed away for {PATIENCE} s: nobody answers at 127.0")
    ends = [finish(supervisor) for supervisor in [start_machine(tmp_path, process, 2, port, 240) for process in (0, 1)]]
    assert [status for status, _, _ in ends] == [0, 0], ends
    assert [row["step"] for row in training_rows(tmp_path)] == [*range(1, STEPS + 1)]
    assert result(tmp_path)["processes"] == 2
