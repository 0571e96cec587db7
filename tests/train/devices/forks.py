"""Runs of the command line as processes that are forked from one in which everything is imported.

A start of Python, JAX and jaxcnn takes seconds of processor time, which jobs of many processes would pay for each.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


class Forks:
    """Starts `jaxcnn train ...`, each as a process of its own."""

    def __init__(self, env):
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=env
        )
        assert self._server.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()

    def start(self, args, env=None):
        """Start `jaxcnn train` with these flags and environment variables."""
        folder = Path(tempfile.mkdtemp(prefix="jaxcnn-fork-"))
        print(json.dumps({"args": ["train", *args], "env": env or {}, "folder": str(folder)}), file=self._server.stdin)
        return Fork(int(self._server.stdout.readline()), folder)


class Fork:
    """A forked process, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, pid, folder):
        self.pid, self._folder, self.returncode = pid, folder, None

    def poll(self):
        with contextlib.suppress(FileNotFoundError):
            self.returncode = int((self._folder / "status").read_text())
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout):
        """Wait for the end. Return what was written to standard output and standard error."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired("jaxcnn train", timeout)
            time.sleep(0.05)
        return (self._folder / "out").read_text(), (self._folder / "err").read_text()


def _run(job):
    """Run a job in this process, which ends with it."""
    from jaxcnn.cli import run

    for descriptor, name in ((0, os.devnull), (1, "out"), (2, "err")):
        flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(Path(job["folder"]) / name, flags), descriptor)
    os.environ.update(job["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = job["args"]
    run()


def _note_ends(folders):
    """Write the status of each process that has ended into its folder."""
    while folders:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        written = folders.pop(pid) / "status"
        written.with_suffix(".tmp").write_text(str(os.waitstatus_to_exitcode(status)))
        written.with_suffix(".tmp").rename(written)


def _serve():
    import select

    import matplotlib.figure
    import orbax.checkpoint
    import tensorboardX

    from jaxcnn.cli.commands import train

    imported = (matplotlib.figure, orbax.checkpoint, tensorboardX, train)
    assert len(imported) == 4
    print("ready", flush=True)
    folders = {}
    while True:
        if select.select([sys.stdin], [], [], 0.05)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            job = json.loads(line)
            pid = os.fork()
            if not pid:
                _run(job)
            folders[pid] = Path(job["folder"])
            print(pid, flush=True)
        _note_ends(folders)


if __name__ == "__main__":
    _serve()
