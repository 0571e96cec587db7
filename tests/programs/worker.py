"""Runs the programs of this folder, each in a process that may be killed.

A job is a line of JSON on standard input, `{"program": FILE, "workdir": FOLDER, "output": FILE, "last": STEP}`. Each is
a process of its own, forked from this one, which has imported everything and has started nothing of JAX. Lines on
standard output say what happens: `pid`, `step` for each call of the compiled step, `exit`.
"""

import importlib
import json
import os
import runpy
import sys
import time
import traceback

# The programs' own imports, and what jaxcnn imports when it needs it.
for name in (
    *("matplotlib.figure", "orbax.checkpoint", "tensorboardX.summary", "tensorflow_datasets", "PIL.Image"),
    *("jaxcnn.data", "jaxcnn.models", "jaxcnn.train", "jaxcnn.train.runtime._pictures"),
):
    importlib.import_module(name)

SLOWER = 0.01
"""Seconds that each call of a step takes longer, so that a signal comes during the run."""

MOST = 60
"""Seconds that a program which is to be killed waits for it before its last step."""


def say(*words: object) -> None:
    os.write(EVENTS, (" ".join(map(str, words)) + "\n").encode())


def run(job: dict) -> int:
    """Run a program as `python FILE WORKDIR` does, with its output in a file."""
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    loop = sys.modules["jaxcnn.train.runtime.loop"]
    batches = loop.training_batches

    def told(*args, **kwargs):
        for number, item in enumerate(batches(*args, **kwargs), 1):
            say("step")
            time.sleep(SLOWER if number != job["last"] else MOST)
            yield item

    loop.training_batches = told
    sys.argv = [job["program"], job["workdir"]]
    try:
        runpy.run_path(job["program"], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def serve() -> None:
    say("ready")
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            status = run(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        say("pid", pid)
        say("exit", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    EVENTS = os.dup(1)
    serve()
