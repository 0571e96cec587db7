"""What disturbs a run in its own process, and what the process tells of itself. See `worker.run`."""

import contextlib
import json
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxcnn.data import pipeline
from jaxcnn.data.pipeline import Pipeline
from jaxcnn.train.runtime import loop


def begin(say: Callable[..., None], *, hangs: dict[str, Any] | None = None, usage: str = "", files: int = 0) -> None:
    """Disturb the runs of this process.

    Args:
      say: tells a line.
      hangs: `{"what": ..., "step": N}`: what never answers, for the batch of which step. "data" is the thread that
        gathers batches, "worker" one of the threads that read files, and "own work" what no wait covers.
      usage: the run directory, to tell at each evaluation what is in use.
      files: the largest number of open files.
    """
    if files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if hangs:
        _hang(**hangs)
    if usage:
        _tell_usage(say, Path(usage))


def _hang(what: str, step: int) -> None:
    if what == "own work":
        log = loop.Loop._log

        def hanging_log(self: Any, *args: Any, **kwargs: Any) -> None:
            if self.latest[0] >= step:
                never_answers()
            log(self, *args, **kwargs)

        loop.Loop._log = hanging_log
        return
    name = "_training_batch_from_memory"
    if what == "worker":
        name = "_training_batch_from_disk"
        pipeline._choose_residence = lambda *_: "disk"
    make = getattr(Pipeline, name)

    def hanging_make(self: Pipeline, index: int) -> Any:
        if index >= step:
            never_answers()
        return make(self, index)

    setattr(Pipeline, name, hanging_make)


def never_answers() -> None:
    threading.Event().wait()


def _tell_usage(say: Callable[..., None], workdir: Path) -> None:
    evaluate = loop.evaluate

    def telling(*args: Any, **kwargs: Any) -> Any:
        say("usage", json.dumps(in_use(workdir) | {"step": int(args[2].step)}))
        return evaluate(*args, **kwargs)

    loop.evaluate = telling


def in_use(workdir: Path) -> dict[str, int]:
    """Return the anonymous memory, open files and threads of this process, and the sizes of a run directory.

    Memory and sizes are in bytes.
    """
    # Without mapped files, whose pages the system drops when memory is short.
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {
        "memory": next(1024 * int(words[1]) for words in lines if words[0] == "RssAnon:"),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "checkpoints": _bytes(workdir / "checkpoints"),
        "disk": _bytes(workdir),
    }


def _bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a checkpoint that is being written or removed
                total += os.stat(os.path.join(parent, name)).st_size
    return total
