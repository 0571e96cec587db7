"""The supervisor of one process of a job on several machines, which goes on with fewer processes if some stay away.

Each machine has a supervisor. When one of the processes dies, JAX ends the others, and all supervisors meet
(`rendezvous`). The one of process 0 counts restarts, and decides who takes part in the next start.
"""

import contextlib
import dataclasses
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxcnn.errors import RunError, UsageError
from jaxcnn.train.devices import launch
from jaxcnn.train.devices.rendezvous import Answer, Arrival, Host, UnreachableError, ask, split_address

LEAVING_SECONDS = 3.0
"""How long the supervisors wait for each other once the job has ended."""


@dataclass(frozen=True)
class Member:
    """One process of a job on several machines.

    Attributes:
      command: its command, to which the address, the number of processes and its index are added.
      process: its index in the job. Process 0 reads and writes the run directory.
      processes: number of processes of the job.
      coordinator: "HOST:PORT" at which the supervisor of process 0 listens.
      timeout: seconds to wait for supervisors that do not come.
      checkpoints: the run's folder of checkpoints. A new checkpoint shows that the run makes progress.
      max_restarts: largest number of restarts without a new checkpoint.
      name: the user's command.
    """

    command: Sequence[str]
    process: int
    processes: int
    coordinator: str
    timeout: float
    checkpoints: Path
    max_restarts: int = 3
    name: str = ""


def supervise_member(member: Member) -> int:
    """Start the process, and start it again with those of the other machines that are there; return its exit status.

    A signal is forwarded. The state is saved, and the supervisor ends. The others go on without this process, unless it
    is process 0.

    Raises:
      UsageError: in process 0, if it cannot listen at the address.
      RunError: if the processes were restarted `max_restarts` times without a new checkpoint.
    """
    with launch.Signals() as signals, contextlib.ExitStack() as held:
        decide = (_Leader if member.process == 0 else _Follower)(member, signals, held).decide
        status = None
        while True:
            answer = decide(status)
            if answer.status is not None:
                launch.tell(answer.line)
                return answer.status
            status = _run(member, answer, signals)


class _Leader:
    """Decides for all; see `decide`."""

    def __init__(self, member: Member, signals: launch.Signals, held: contextlib.ExitStack):
        self._member, self._signals = member, signals
        self._restarts = launch.Restarts(member.checkpoints, member.max_restarts)
        self._taking_part = {*range(1, member.processes)}
        try:
            self._host = held.enter_context(Host(member.coordinator, member.processes))
        except OSError as error:
            raise UsageError(
                f"--coordinator {member.coordinator}: this machine cannot listen there ({error.strerror}). Choose "
                "another port in all processes, or end the process that uses it."
            ) from error

    def decide(self, status: int | None) -> Answer:
        """Return what to do after the process has ended with a status, and tell the other supervisors."""
        member, own = self._member, _ended(status, self._signals)
        if own is None:
            everyone = range(1, member.processes)
            arrived = self._host.meet(everyone, member.timeout, lambda: self._signals.received is not None)
        else:
            arrived = self._host.meet(self._taking_part, LEAVING_SECONDS, lambda: False)
        statuses = {0: status, **{process: arrival.status for process, arrival in arrived.items()}}
        bad = {process for process, status in statuses.items() if status == launch.BAD_DEVICE}
        if own is None:  # the device of another process computes wrong
            for process in bad:
                self._host.answer(process, Answer(launch.BAD_DEVICE))
                del arrived[process], statuses[process]
        final = own if own is not None else launch.final_status([*statuses.values()])
        final = final if final is not None else _ended(status, self._signals)  # there may be a signal now
        if final is not None:
            line = _why(statuses, final)
            launch.tell("" if own is not None else line)
            return self._end(arrived, final, line)
        self._taking_part = {*arrived}
        try:
            self._announce(statuses, bad)
        except RunError as error:
            self._end(arrived, error.exit_status, str(error))
            raise
        if (final := _ended(status, self._signals)) is not None:
            return self._end(arrived, final, _why(statuses, final))
        host = member.coordinator.rpartition(":")[0]
        start = Answer(coordinator=f"{host}:{launch.free_port()}", count=len(statuses))
        for index, process in enumerate(sorted(arrived), start=1):
            self._host.answer(process, dataclasses.replace(start, index=index))
        return start

    def _announce(self, statuses: Mapping[int, int | None], bad: Collection[int]) -> None:
        """Say who starts (again) and who does not, such as those with bad devices, and wait for a while before it."""
        member = self._member
        away = [process for process in range(member.processes) if process not in statuses]
        failed = {process: status for process, status in statuses.items() if status}
        if away:
            names = f"process{'es' * (len(away) > 1)} {' and '.join(map(str, away))}"
            wrong = f"a device of process {' and '.join(map(str, sorted(bad)))} computes wrong"
            cause = wrong if {*bad} == {*away} else f"{names} stayed away for {member.timeout:g} s"
            who = f"the other {len(statuses)} start" if len(statuses) > 1 else "process 0 starts"
        elif failed:
            first = launch.first_to_fail(failed)
            cause = f"process {first} {launch.how_it_ended(failed[first])}"
            who = f"all {len(statuses)} start"
        else:
            return  # the first start
        if statuses[0] is None:
            launch.tell(f"{cause}; {who}")
            return
        pause, where = self._restarts.another(cause)
        launch.tell(f"{cause}; {who} again from {where}")
        self._signals.sleep(pause)

    def _end(self, arrived: Mapping[int, Arrival], status: int, line: str) -> Answer:
        """Let all end with a status. Those whose own process ended with it have said why."""
        for process, arrival in arrived.items():
            self._host.answer(process, Answer(status, "" if arrival.status == status else line))
        return Answer(status)


class _Follower:
    """Does what the supervisor of process 0 says."""

    def __init__(self, member: Member, signals: launch.Signals, held: contextlib.ExitStack):
        self._member, self._signals = member, signals

    def decide(self, status: int | None) -> Answer:
        """Return what to do after the process has ended with a status."""
        member, own = self._member, _ended(status, self._signals)
        if self._signals.received is not None:
            return Answer(own)
        if own is None:
            ended = "" if status is None else f" {launch.how_it_ended(status)}, and"
            launch.tell(f"process {member.process}{ended} meets the others at {member.coordinator}")
        seconds = member.timeout if own is None else LEAVING_SECONDS
        arrival = Arrival(member.process, member.processes, status)
        try:
            answer = ask(member.coordinator, arrival, seconds, lambda: self._signals.received is not None)
        except UnreachableError:
            if own is not None:
                return Answer(own)
            host, port = split_address(member.coordinator)
            return Answer(
                launch.TRY_AGAIN,
                f"process 0 stayed away for {seconds:g} s: nobody answers at {host}, port {port}. This process ends. "
                "Start the same command on all machines again.",
            )
        return answer or Answer(_ended(status, self._signals))


def _ended(status: int | None, signals: launch.Signals) -> int | None:
    """Return the exit status of a supervisor whose process needs no restart, or None."""
    final = None if status is None else launch.final_status([status])
    return final if final is not None or signals.received is None else 128 + signals.received


def _why(statuses: Mapping[int, int | None], final: int) -> str:
    """Return a line on the process that has ended with a final status."""
    process = next((process for process, status in statuses.items() if status == final), 0)
    return f"process {process} ended with status {final}: see its output" if final else ""


def _run(member: Member, answer: Answer, signals: launch.Signals) -> int:
    """Start the process, forward signals, and return its exit status. A second signal ends it at once."""
    who = ["--coordinator", answer.coordinator, "--num-processes", f"{answer.count}", "--process-id", f"{answer.index}"]
    child = launch.start_child([*member.command, *who], {launch.SUPERVISED: member.name}, None)
    sent = 0
    try:
        while (status := child.poll()) is None and sent < 2:
            if signals.count > sent:
                sent = signals.count
                assert signals.received is not None
                child.send_signal(signals.received)
            time.sleep(launch.POLL_SECONDS)
    finally:
        launch.end_children([child])
    return child.wait() if status is None else status
