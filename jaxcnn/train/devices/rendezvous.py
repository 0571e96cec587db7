"""Let the supervisors of several machines agree on which processes take part in the next start of a job.

The supervisor of process 0 listens at the address of `--coordinator`. Each other supervisor connects to this address,
reports how its own process has ended, and waits for one answer: start the process, or end. A message is one line of
JSON. JAX's coordinator gets a new port at each start, so that processes of an earlier start cannot join.
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
"""Timeout in seconds for sending or receiving a message."""

LONGEST_MESSAGE = 4096
SILENCE_SECONDS, PROBES = 10, 3
"""Seconds without a message after which the operating system probes a connection, and number of such probes. Without
probes, a connection to a machine that has lost its power would stay open."""


Message = TypeVar("Message")


@dataclass(frozen=True)
class Arrival:
    """Message of a supervisor that is ready for the next start of the job.

    Attributes:
      process: index of the supervisor's process in the job.
      processes: number of processes of the job.
      status: exit status of the process, -N if signal N has ended the process; None before the first start.
    """

    process: int
    processes: int
    status: int | None = None


@dataclass(frozen=True)
class Answer:
    """Answer to a supervisor: start its process, or end.

    Attributes:
      status: exit status with which the supervisor must end, or None to start its process.
      line: one line that says why the supervisor must end.
      coordinator: address of JAX's coordinator in the next start.
      index: index of the process in the next start.
      count: number of processes in the next start.
    """

    status: int | None = None
    line: str = ""
    coordinator: str = ""
    index: int = 0
    count: int = 0


class UnreachableError(Exception):
    """Raised when the supervisor of process 0 cannot be reached."""


class Host:
    """Server of the supervisor of process 0, to which the other supervisors connect. A context manager.

    Args:
      address: address "HOST:PORT". For a loopback address, only this machine can connect. For another address, the
        server listens at all addresses of this machine.
      processes: number of processes of the job.

    Raises:
      OSError: if the server cannot listen at the address.
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
            self._listener.shutdown(socket.SHUT_RDWR)  # ends the call of `accept`, which would keep the port in use
        self._thread.join()
        self._listener.close()
        with self._lock:
            for waiting in self._waiting.values():
                waiting[1].close()
            self._waiting.clear()

    def meet(self, others: Collection[int], seconds: float, is_cancelled: Callable[[], bool]) -> dict[int, Arrival]:
        """Wait until the supervisors of some processes have connected, and return the messages of these supervisors.

        Args:
          others: indices of the processes to wait for.
          seconds: longest time to wait, in seconds.
          is_cancelled: function that is called several times per second, and returns True to stop waiting.

        Returns:
          The message of each connected supervisor, by process index.
        """
        end = time.monotonic() + seconds
        while True:
            present = self._present()
            if {*others} <= {*present} or time.monotonic() > end or is_cancelled():
                return present
            time.sleep(POLL_SECONDS)

    def answer(self, process: int, answer: Answer) -> None:
        """Send an answer to the connected supervisor of a process, and close the connection."""
        with self._lock:
            _, connection = self._waiting.pop(process)
        _send_and_close(connection, answer)

    def _present(self) -> dict[int, Arrival]:
        """Return the messages of the supervisors that wait for an answer. Remove disconnected supervisors."""
        with self._lock:
            gone = [process for process, (_, connection) in self._waiting.items() if not _is_connected(connection)]
            for process in gone:
                self._waiting.pop(process)[1].close()
            return {process: self._waiting[process][0] for process in sorted(self._waiting)}

    def _accept(self) -> None:
        while self._is_open:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # the listener is closed, no client has connected in time, or there are too many open files
                time.sleep(POLL_SECONDS)
                continue
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        """Read the message of a supervisor, and keep its connection open. Disconnect all other clients."""
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
        if earlier is not None:  # the earlier supervisor was killed, or was started with the same index by mistake
            _send_and_close(earlier[1], Answer(status=2, line=f"another process has --process-id {arrival.process}"))

    def _problem(self, arrival: Arrival) -> str | None:
        if arrival.processes != self._processes:
            return (
                f"process 0 has --num-processes {self._processes}, but this process has {arrival.processes}. Give all "
                "processes the same --num-processes."
            )
        if not 0 < arrival.process < self._processes:
            return f"--process-id must be from 1 to {self._processes - 1}, got {arrival.process}"
        return None


def ask(address: str, arrival: Arrival, seconds: float, is_cancelled: Callable[[], bool]) -> Answer | None:
    """Ask the supervisor of process 0 what to do, and wait for its answer.

    Args:
      address: address "HOST:PORT" of the supervisor of process 0.
      arrival: the message to send.
      seconds: time in seconds after which attempts to connect end. After a lost connection, `ask` tries to connect
        again for this time.
      is_cancelled: function that is called several times per second, and returns True to stop waiting.

    Returns:
      The answer, or None if `is_cancelled` has returned True.

    Raises:
      UnreachableError: if the supervisor of process 0 cannot be reached for `seconds`.
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
    """Split "HOST:PORT" into the host and the port. Remove the brackets of an IPv6 address."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is a loopback address, which only its own machine can reach."""
    return re.fullmatch(r"localhost|127(\.\d{1,3}){3}|\[?::1\]?", host) is not None


def _listen(host: str, port: int) -> socket.socket:
    if is_loopback(host):
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _probe(connection: socket.socket) -> None:
    """Turn on TCP keepalive probes, so that the operating system detects that the other machine is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", SILENCE_SECONDS), ("TCP_KEEPINTVL", SILENCE_SECONDS), ("TCP_KEEPCNT", PROBES)):
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _is_connected(connection: socket.socket) -> bool:
    """Return whether the other end of a connection, which must not send more data, is still open."""
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _until_readable(connection: socket.socket) -> Iterator[None]:
    """Yield several times per second until data can be read from a connection, or until the connection is lost."""
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
    with contextlib.suppress(OSError), connection:  # a supervisor that has lost the connection asks again
        connection.settimeout(MESSAGE_SECONDS)
        connection.sendall(_line(answer))


def _read(connection: socket.socket, kind: type[Message]) -> Message:
    """Read a message of the type `kind` from a connection.

    Raises:
      ValueError: if the data is not a message of this type.
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
        raise ValueError("the message is nested too deeply") from None
    known = typing.get_type_hints(kind)
    if not isinstance(fields, dict) or fields.keys() != known.keys():
        raise ValueError("the message has missing or unknown fields")
    if not all(isinstance(value, known[name]) for name, value in fields.items()):
        raise ValueError("the values of the message have wrong types")
    return kind(**fields)
