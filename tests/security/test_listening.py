"""Processes of one machine that meet at a loopback address listen at no other."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn.train.devices import distributed

ROOT = Path(__file__).parents[2]

LOOK = """
mine = set()
for fd in os.listdir("/proc/self/fd"):
    try:
        mine.add(os.readlink(f"/proc/self/fd/{fd}"))
    except FileNotFoundError:  # that of the list itself
        pass
for table in ("tcp", "tcp6"):
    for line in open(f"/proc/self/net/{table}").readlines()[1:]:
        address, state, inode = line.split()[1], line.split()[3], line.split()[9]
        if state == "0A" and f"socket:[{inode}]" in mine:
            print(table, *address.split(":"), flush=True)
"""

ALONE = """
import os, sys
from jaxcnn.train import Callback, Config, fit
class Look(Callback):
    def on_epoch(self, run):
        exec(compile(sys.argv[2], "look", "exec"), {"os": os})
        print("looked", flush=True)
fit(Config(workdir=sys.argv[1], steps=4, progress=False), callbacks=[Look()])
"""

MEMBER = f"""
import os, re, socket, sys
from jaxcnn.train.devices import distributed
distributed.initialize(f"{{sys.argv[2]}}:{{sys.argv[3]}}", 2, int(sys.argv[1]))
import jax
from jax.experimental import multihost_utils
multihost_utils.process_allgather(jax.numpy.ones(1))  # opens the connections of collectives
{LOOK}
multihost_utils.sync_global_devices("both have looked")
"""

ENV = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PATH": "/usr/bin:/bin"}
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
"""127.0.0.1, ::1, and the first as an address of IPv6, as the kernel's tables have them."""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def listening(host):
    """Return the addresses and ports at which two processes listen that meet at this host."""
    port = str(free_port())
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(index), host, port],
            env=ENV,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    ended = [member.communicate(timeout=120) for member in members]
    assert [member.returncode for member in members] == [0, 0], ended
    lines = [line.split()[1:] for out, _ in ended for line in out.splitlines() if line.startswith("tcp")]
    return [address for address, at in lines if int(at, 16) == int(port)], [address for address, _ in lines]


@pytest.mark.slow
def test_a_run_in_one_process_listens_at_no_port(tmp_path):
    command = [sys.executable, "-c", ALONE, str(tmp_path / "run"), LOOK]
    ended = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout) == (0, "looked\n"), ended.stderr


@pytest.mark.slow
def test_the_coordinator_of_one_machine_listens_on_loopback():
    coordinator, every = listening("127.0.0.1")
    assert coordinator, "the coordinator was not seen"
    assert {*coordinator} <= {*LOOPBACK}
    if socket.gethostbyname(socket.gethostname()).startswith("127."):
        # Collectives on CPUs listen where the machine's own name leads.
        assert {*every} <= {*LOOPBACK}


@pytest.mark.slow
def test_another_address_is_where_all_machines_reach_it():
    coordinator, _ = listening(socket.gethostname())
    assert not {*coordinator} & {*LOOPBACK}  # also proves that the test above sees what is open to others


@pytest.mark.parametrize(
    ("coordinator", "listens"),
    [
        ("127.0.0.1:1234", "127.0.0.1:1234"),
        ("localhost:1234", "localhost:1234"),
        ("[::1]:1234", "[::1]:1234"),
        ("10.0.0.1:1234", None),  # JAX's choice: all addresses
        ("node1:1234", None),
        ("127.example.org:1234", None),
        (None, None),
    ],
)
def test_only_a_loopback_address_of_the_coordinator_is_where_it_listens(coordinator, listens):
    assert distributed._address_to_listen_at(coordinator) == listens
