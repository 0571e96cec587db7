"""SIGTERM and SIGINT: the step ends, the state is saved, and one line says how to go on."""

import os
import shlex
import signal
import threading

import pytest
from killing import ARGS, complete_checkpoints, outcome

from jaxcnn.data.pipeline import Pipeline
from jaxcnn.train import InterruptedRunError, fit
from jaxcnn.train.runtime.signals import StopSignals


@pytest.fixture(scope="module")
def straight(worker, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight") / "run"
    ended = worker.run(workdir)
    assert ended.status == 0, ended.errors
    return ended.states, outcome(workdir)


@pytest.mark.parametrize(("send", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("at_event", [4, 22], ids=["in the first step", "later"])
def test_a_signal_stops_the_run_which_goes_on_to_the_same_end(worker, straight, tmp_path, send, status, at_event):
    workdir = tmp_path / "run"
    ended = worker.run(workdir, send=send, at_event=at_event, slow_step=0.05)
    assert ended.status == status
    (step,) = complete_checkpoints(workdir)[-1:]
    said = [line for line in ended.errors.splitlines() if line]
    assert said == [
        "jaxcnn: finishing this step and saving; Ctrl-C stops at once",
        f"jaxcnn: stopped by {signal.Signals(send).name} at step {step} of 26, whose state is saved. "
        f"To resume: jaxcnn {shlex.join([*ARGS, '--workdir', str(workdir)])}",
    ]
    assert not (workdir / "result.json").exists()
    ended = worker.run(workdir)
    assert (ended.states, ended.errors) == (straight[0], "")
    assert outcome(workdir) == straight[1]


def test_the_command_to_go_on_names_a_folder_that_was_chosen_for_the_run(worker, tmp_path, monkeypatch):
    from jaxcnn.cli import main
    from jaxcnn.cli.commands import train

    def stopped(config, console):
        raise InterruptedRunError(signal.SIGTERM, 5, 26, tmp_path / "runs" / "it's one")

    monkeypatch.setattr(train.train, "fit", stopped)
    assert main(["train", "--seed", "3"]) == 143


class Sender:
    """Sends signals to this process while a run in it draws its batches."""

    def __init__(self, monkeypatch, numbers):
        batches = Pipeline.batches

        def sending(*args, **kwargs):
            for index, batch in enumerate(batches(*args, **kwargs)):
                for number in numbers if index == 4 else []:
                    os.kill(os.getpid(), number)
                yield batch

        monkeypatch.setattr(Pipeline, "batches", sending)


def test_fit_in_python_raises_and_puts_the_handlers_back(tiny, tmp_path, monkeypatch, capfd):
    import dataclasses

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        Sender(patch, [signal.SIGINT])
        with pytest.raises(
            InterruptedRunError, match=r"SIGINT at step 5 of 26, whose state is saved\. To resume: call"
        ):
            fit(dataclasses.replace(tiny, workdir=str(tmp_path)))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert complete_checkpoints(tmp_path)[-1] == 5
    assert "finishing this step and saving" in capfd.readouterr().err
    with monkeypatch.context() as patch:
        Sender(patch, [signal.SIGTERM, signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            fit(dataclasses.replace(tiny, workdir=str(tmp_path)))
    assert complete_checkpoints(tmp_path)[-1] == 8  # the ninth step was under way


def test_outside_the_main_thread_and_where_signals_are_ignored_nothing_is_changed():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def other():
        with StopSignals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [before]
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with StopSignals():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
