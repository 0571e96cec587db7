"""Supervise one process of a job on several machines. The job continues with fewer processes if machines are lost.

Each machine has a supervisor. When a process dies, JAX ends the other processes, and all supervisors connect to the
supervisor of process 0 (`rendezvous`). The supervisor of process 0 counts restarts, and decides which processes take
part in the next start.
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
"""Seconds that the supervisors wait for each other after the job has ended."""


@dataclass(frozen=True)
class Member:
    """One process of a job on several machines.

    Attributes:
      command: command line of the process. The supervisor appends the coordinator's address, the number of processes
        and the process index.
      process: index of the process in the job. Process 0 reads and writes the run directory.
      processes: number of processes of the job.
      coordinator: address "HOST:PORT" at which the supervisor of process 0 listens.
      timeout: seconds to wait for supervisors that have not connected yet.
      checkpoints: folder that contains the checkpoints of the run. A new checkpoint shows that the run makes progress.
      max_restarts: largest number of restarts without a new checkpoint.
      name: the command line that the user has typed.
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
    """Run one process of the job, restart it together with the processes of other machines, and return its exit status.

    SIGTERM and SIGINT are forwarded to the process. The process then saves its state, and the supervisor ends. The
    other processes continue without this process. If this process is process 0, the job ends.

    Raises:
      UsageError: in process 0, if the supervisor cannot listen at `member.coordinator`.
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
    """The supervisor of process 0, which decides for all supervisors what to do next; see `decide`."""

    def __init__(self, member: Member, signals: launch.Signals, held: contextlib.ExitStack):
        self._member, self._signals = member, signals
        self._restarts = launch.Restarts(member.checkpoints, member.max_restarts)
        self._taking_part = {*range(1, member.processes)}
        try:
            self._host = held.enter_context(Host(member.coordinator, member.processes))
        except OSError as error:
            raise UsageError(
                f"--coordinator {member.coordinator}: "
                f"this machine cannot listen at this address ({error.strerror}). "
                "Choose another port in all processes, or end the process that uses it."
            ) from error

    def decide(self, status: int | None) -> Answer:
        """Decide which processes start next, or that the job ends, and send this decision to all supervisors.

        Args:
          status: exit status of process 0; None before the first start.

        Returns:
          The answer for process 0.
        """
        member, own = self._member, _ended(status, self._signals)
        if own is None:
            everyone = range(1, member.processes)
            arrived = self._host.meet(everyone, member.timeout, lambda: self._signals.received is not None)
        else:
            arrived = self._host.meet(self._taking_part, LEAVING_SECONDS, lambda: False)
        statuses = {0: status, **{process: arrival.status for process, arrival in arrived.items()}}
        bad = {process for process, status in statuses.items() if status == launch.BAD_DEVICE}
        if own is None:  # exclude processes whose devices compute wrong values
            for process in bad:
                self._host.answer(process, Answer(launch.BAD_DEVICE))
                del arrived[process], statuses[process]
        final = own if own is not None else launch.final_status([*statuses.values()])
        final = final if final is not None else _ended(status, self._signals)  # a signal may have arrived meanwhile
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
        """Print which processes start and which processes are excluded, then pause before a restart."""
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
        """Tell all supervisors to end with `status`. Send `line` only if their process ended with another status."""
        for process, arrival in arrived.items():
            self._host.answer(process, Answer(status, "" if arrival.status == status else line))
        return Answer(status)


class _Follower:
    """The supervisor of a process other than process 0, which asks the supervisor of process 0 what to do."""

    def __init__(self, member: Member, signals: launch.Signals, held: contextlib.ExitStack):
        self._member, self._signals = member, signals

    def decide(self, status: int | None) -> Answer:
        """Ask the supervisor of process 0 what to do, and return its answer.

        Args:
          status: exit status of this process; None before the first start.
        """
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
    """Return the exit status for a supervisor, or None if the supervisor may restart its process."""
    final = None if status is None else launch.final_status([status])
    return final if final is not None or signals.received is None else 128 + signals.received


def _why(statuses: Mapping[int, int | None], final: int) -> str:
    """Return one line that names the process that has ended with the exit status `final`."""
    process = next((process for process, status in statuses.items() if status == final), 0)
    return f"process {process} ended with status {final}: see its output" if final else ""


def _run(member: Member, answer: Answer, signals: launch.Signals) -> int:
    """Start the process, forward signals, and return its exit status. A second signal ends the process at once."""
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
