"""How the supervisors of several machines agree on the processes of the next start.

The supervisor of process 0 listens at the address of `--coordinator`. Each of the others connects to it, says how its
own process has ended, and waits for one answer: start this process, or end. Messages are one line of JSON. JAX's
coordinator gets a new port at each start, so that no process of an earlier start can join.
"""

import contextlib
import dataclasses
import json
import re
import socket
import threading
import time
import typing
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

POLL_SECONDS = 0.1
MESSAGE_SECONDS = 10.0
"""Longest time to send or to receive a message."""

LONGEST_MESSAGE = 4096
SILENCE_SECONDS, PROBES = 10, 3
"""After this time without a message, the system probes a connection this often, at the same intervals: a machine that
has lost its power closes no connection."""


Message = TypeVar("Message")


@dataclass(frozen=True)
class Arrival:
    """What a supervisor says when it is ready for the next start.

    Attributes:
      process: index of its process in the job.
      processes: number of processes of the job.
      status: how its process has ended, negative for a signal; None before the first start.
    """

    process: int
    processes: int
    status: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a supervisor is told.

    Attributes:
      status: the exit status to end with, or None to start the process.
      line: why it has to end.
      coordinator: address of JAX's coordinator.
      index, count: index of the process in this start, and number of its processes.
    """

    status: int | None = None
    line: str = ""
    coordinator: str = ""
    index: int = 0
    count: int = 0


class UnreachableError(Exception):
    """The supervisor of process 0 cannot be reached."""


class Host:
    """The supervisor of process 0, as the others see it. A context, which listens at the address.

    Args:
      address: "HOST:PORT". At a loopback address, only this machine can connect; else all addresses are listened at.
      processes: number of processes of the job.

    Raises:
      OSError: if it cannot listen there.
    """

    def __init__(self, address: str, processes: int):
        self._processes = processes
        self._listener = _listen(*split_address(address))
        self._listener.settimeout(MESSAGE_SECONDS)
        self._waiting: dict[int, tuple[Arrival, socket.socket]] = {}
        self._lock = threading.Lock()
        self._is_open = True
        self._thread = threading.Thread(target=self._accept, name="jaxcnn rendezvous", daemon=True)

    def __enter__(self) -> "Host":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_open = False
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends `accept`, which would keep the port in use
        self._thread.join()
        self._listener.close()
        with self._lock:
            for waiting in self._waiting.values():
                waiting[1].close()
            self._waiting.clear()

    def meet(self, others: Collection[int], seconds: float, is_cancelled: Callable[[], bool]) -> dict[int, Arrival]:
        """Wait until these processes have arrived, for some seconds at most. Return all that are there, by index."""
        end = time.monotonic() + seconds
        while True:
            present = self._present()
            if {*others} <= {*present} or time.monotonic() > end or is_cancelled():
                return present
            time.sleep(POLL_SECONDS)

    def answer(self, process: int, answer: Answer) -> None:
        """Answer a supervisor that has arrived."""
        with self._lock:
            _, connection = self._waiting.pop(process)
        _send_and_close(connection, answer)

    def _present(self) -> dict[int, Arrival]:
        """Return who waits for an answer. Those that have hung up are forgotten."""
        with self._lock:
            gone = [process for process, (_, connection) in self._waiting.items() if not _is_connected(connection)]
            for process in gone:
                self._waiting.pop(process)[1].close()
            return {process: self._waiting[process][0] for process in sorted(self._waiting)}

    def _accept(self) -> None:
        while self._is_open:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # the listener is closed, nobody has come, or there are too many open files
                time.sleep(POLL_SECONDS)
                continue
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        """Read what a supervisor says, and let it wait. Anything else that connects is hung up on."""
        try:
            connection.settimeout(MESSAGE_SECONDS)
            arrival = _read(connection, Arrival)
        except (OSError, ValueError):
            connection.close()
            return
        if (problem := self._problem(arrival)) is not None:
            _send_and_close(connection, Answer(status=2, line=problem))
            return
        _probe(connection)
        connection.setblocking(False)
        with self._lock:
            earlier = self._waiting.pop(arrival.process, None)
            self._waiting[arrival.process] = (arrival, connection)
        if earlier is not None:  # of a supervisor that was killed, or of one with the same flags by mistake
            _send_and_close(earlier[1], Answer(status=2, line=f"another process has --process-id {arrival.process}"))

    def _problem(self, arrival: Arrival) -> str | None:
        if arrival.processes != self._processes:
            return f"process 0 has --num-processes {self._processes}, this one has {arrival.processes}. Use the same."
        if not 0 < arrival.process < self._processes:
            return f"--process-id must be from 1 to {self._processes - 1} here, got {arrival.process}"
        return None


def ask(address: str, arrival: Arrival, seconds: float, is_cancelled: Callable[[], bool]) -> Answer | None:
    """Ask the supervisor of process 0 what to do, and wait for its answer. Return None if `is_cancelled` comes true.

    Args:
      address: "HOST:PORT" of that supervisor.
      arrival: what to say.
      seconds: how long to try to connect. A lost connection is made again.
      is_cancelled: is called several times a second.

    Raises:
      UnreachableError: if it cannot be reached for this time.
    """
    end = time.monotonic() + seconds
    while not is_cancelled():
        connected = float("inf")
        try:
            with contextlib.closing(socket.create_connection(split_address(address), MESSAGE_SECONDS)) as connection:
                _probe(connection)
                connected = time.monotonic()
                connection.sendall(_line(arrival))
                for _ in _until_readable(connection):
                    if is_cancelled():
                        return None
                return _read(connection, Answer)
        except (OSError, ValueError):
            now = time.monotonic()
            if now - connected > seconds:  # the connection was lost after a long wait
                end = now + seconds
            if now > end:
                raise UnreachableError from None
            time.sleep(POLL_SECONDS)
    return None


def split_address(address: str) -> tuple[str, int]:
    """Return the host, without the brackets of IPv6, and the port of "HOST:PORT"."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Return whether a name or address, with or without brackets, can be reached from its own machine only."""
    return re.fullmatch(r"localhost|127(\.\d{1,3}){3}|\[?::1\]?", host) is not None


def _listen(host: str, port: int) -> socket.socket:
    if is_loopback(host):
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _probe(connection: socket.socket) -> None:
    """Let the system notice that the other machine is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", SILENCE_SECONDS), ("TCP_KEEPINTVL", SILENCE_SECONDS), ("TCP_KEEPCNT", PROBES)):
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _is_connected(connection: socket.socket) -> bool:
    """Return whether the other end of a connection from which nothing more is expected is open."""
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _until_readable(connection: socket.socket) -> Iterator[None]:
    """Yield several times a second until there is something to read, or until the connection is lost."""
    connection.settimeout(POLL_SECONDS)
    while True:
        try:
            connection.recv(1, socket.MSG_PEEK)
            break
        except TimeoutError:
            yield
    connection.settimeout(MESSAGE_SECONDS)


def _line(message: Arrival | Answer) -> bytes:
    return json.dumps(dataclasses.asdict(message)).encode() + b"\n"


def _send_and_close(connection: socket.socket, answer: Answer) -> None:
    with contextlib.suppress(OSError), connection:  # who is gone asks again, or never
        connection.settimeout(MESSAGE_SECONDS)
        connection.sendall(_line(answer))


def _read(connection: socket.socket, kind: type[Message]) -> Message:
    """Return a message.

    Raises:
      ValueError: if it is none of this kind.
    """
    received = b""
    while not received.endswith(b"\n"):
        part = connection.recv(LONGEST_MESSAGE)
        received += part
        if not part or len(received) > LONGEST_MESSAGE:
            raise ValueError("the connection was closed, or the message is too long")
    try:
        fields = json.loads(received)
    except RecursionError:
        raise ValueError("too deeply nested") from None
    known = typing.get_type_hints(kind)
    if not isinstance(fields, dict) or fields.keys() != known.keys():
        raise ValueError("other fields")
    if not all(isinstance(value, known[name]) for name, value in fields.items()):
        raise ValueError("values of other types")
    return kind(**fields)
