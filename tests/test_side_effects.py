"""Importing and using the library leaves the process as it was."""

import logging
import os
import subprocess
import sys
import threading

import pytest

from jaxcnn._scoped import ignored_unraisable, quiet_logger

# What libraries that jaxcnn uses do when they are imported is theirs, so all of them are imported first.
PROGRAM = """
import contextlib, importlib, io, json, logging, os, signal, sys, threading, warnings

for name in (
    "jax", "flax.linen", "optax", "orbax.checkpoint", "tensorflow_datasets", "grain", "array_record", "PIL.Image",
    "simplejpeg", "tensorstore", "scipy.io", "tyro", "rich.progress", "tensorboardX.proto.event_pb2",
    "tensorboardX.record_writer", "matplotlib.figure", "matplotlib.backends.backend_agg",
    "jax.experimental.multihost_utils",
):
    importlib.import_module(name)
import jax
jax.numpy.zeros(1)  # starts JAX


def state_of(logger):
    return logger.level, logger.disabled, logger.propagate, [*logger.handlers], [*logger.filters]


def observed():
    loggers = {name: logging.getLogger(name) for name in logging.root.manager.loggerDict}
    return {
        **{f"logger {name}": state_of(logger) for name, logger in loggers.items() if name in known},
        "root logger": state_of(logging.root),
        "logging": (logging.root.manager.disable, logging.getLoggerClass(), logging.raiseExceptions),
        "hooks": {name: getattr(sys, name) for name in dir(sys) if name.endswith("hook")},
        "threading": threading.excepthook,
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "environment": dict(os.environ),
        "warnings": [*warnings.filters],
        "sys.path": [*sys.path],
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "descriptors": [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)],
        "jax": dict(jax.config.values),
    }


known = set(logging.root.manager.loggerDict)
before = observed()


def compare(what):
    after = observed()
    for name in before:
        if before[name] != after[name]:
            print(f"{what} changes {name}: {before[name]} -> {after[name]}", file=sys.stderr)


import jaxcnn
compare("import jaxcnn")
from jaxcnn import cli, predict
from jaxcnn.data import open_dataset
import jaxcnn.visualize
compare("import of the rest")

run = sys.argv[1] + "/run"
config = jaxcnn.train.Config(steps=3, batch_size=64, progress=False, workdir=run)
jaxcnn.train.fit(config)
compare("fit")
with contextlib.suppress(jaxcnn.train.DivergedError):
    wild = jaxcnn.train.OptimizerConfig(learning_rate=1e30)
    jaxcnn.train.fit(jaxcnn.train.Config(steps=9, batch_size=64, progress=False, optimizer=wild, workdir=run + "2"))
    raise AssertionError("it did not diverge")
compare("a fit that diverges")
with contextlib.suppress(jaxcnn.UsageError):
    jaxcnn.train.fit(jaxcnn.train.Config(batch_size=64, workdir=run))
    raise AssertionError("it was not refused")
compare("a fit that is refused")


def fail(*args, **options):
    raise KeyboardInterrupt


from jaxcnn.train.runtime import loop
evaluate, loop.evaluate = loop.evaluate, fail
with contextlib.suppress(KeyboardInterrupt):
    jaxcnn.train.fit(jaxcnn.train.Config(steps=3, batch_size=64, progress=False, workdir=run + "3"))
    raise AssertionError("it was not interrupted")
loop.evaluate = evaluate
compare("a fit that is interrupted")

from pathlib import Path
jaxcnn.train.evaluate(Path(run))
compare("evaluate")
trained = jaxcnn.train.load_run(run)
compare("load_run")
images, _ = open_dataset("fashion_mnist_mini").read("test")
trained.predict(images[:10])
compare("predict")
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    statuses = [
        cli.main(["train", "--steps", "3", "--batch-size", "64", "--workdir", run + "4", "--json"]),
        cli.main(["eval", "--workdir", run, "--json"]),
        cli.main(["visualize", "filters", "--workdir", run]),
        cli.main(["summary", "lenet5"]),
        cli.main(["models"]),
        cli.main(["datasets"]),
        cli.main(["train", "--modle", "lenet5"]),
        cli.main(["eval", "--workdir", "/nowhere"]),
    ]
compare("cli.main")
print(json.dumps(statuses))
"""


def test_nothing_that_a_user_calls_changes_the_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (run.returncode, run.stderr, run.stdout) == (0, "", "[0, 0, 0, 0, 0, 0, 2, 2]\n")


def test_blocks_of_several_threads_may_end_in_any_order(caplog):
    logger, hook = logging.getLogger("jaxcnn.test"), sys.unraisablehook
    first, second = quiet_logger("jaxcnn.test", logging.ERROR), quiet_logger("jaxcnn.test", logging.CRITICAL)
    one, two = ignored_unraisable("one"), ignored_unraisable("two")
    for block in (first, second, one, two):
        block.__enter__()
    logger.error("dropped by the second")
    for block in (first, one):  # not in the reverse order
        block.__exit__(None, None, None)
    logger.error("dropped by the second, still")
    assert sys.unraisablehook is not hook
    for block in (second, two):
        block.__exit__(None, None, None)
    logger.error("heard")
    assert [record.message for record in caplog.records] == ["heard"]
    assert sys.unraisablehook is hook
    assert logger.filters == []


def test_only_the_exceptions_that_are_named_are_dropped(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: heard.append(str(unraisable.exc_value)))

    class Fails:
        def __init__(self, message):
            self.message = message

        def __del__(self):
            raise RuntimeError(self.message)

    def fail():
        Fails("Event loop is closed")
        Fails("something else")
        raise KeyError

    with pytest.raises(KeyError), ignored_unraisable("loop is closed"):
        fail()
    Fails("Event loop is closed")
    assert heard == ["something else", "Event loop is closed"]


def test_a_hook_that_was_installed_meanwhile_stays(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)

    def other(unraisable):
        raise NotImplementedError

    with ignored_unraisable("text"):
        sys.unraisablehook = other
    assert sys.unraisablehook is other


def test_many_threads_leave_nothing_behind():
    hook, barrier = sys.unraisablehook, threading.Barrier(8)

    def enter():
        barrier.wait()
        for _ in range(200):
            with ignored_unraisable("text"), quiet_logger("jaxcnn.test", logging.ERROR):
                pass

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.unraisablehook is hook
    assert logging.getLogger("jaxcnn.test").filters == []
