"""Callbacks are any objects with some of the methods; mistakes in them are one line; each is called when it must be."""

import dataclasses
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.train import Config, fit
from jaxcnn.train.callbacks import METHODS, Callback, RunView, call, check_callbacks, stops_after

TINY = Config(steps=6, batch_size=8, progress=False)


def view(step=0, **changed):
    parts = {
        "fetch_state": lambda: None,
        "fetch_metrics": lambda: {"loss": 0.5},
        "run_evaluation": lambda split: {"loss": 1.0},
        **changed,
    }
    return RunView(step, step / 10, 100, 0, Path("run"), TINY, **parts)


def test_an_object_with_some_of_the_methods_is_called_at_these_only():
    seen = []
    loose = types.SimpleNamespace(every=2, on_step=lambda run: seen.append(run.step))
    (checked,) = check_callbacks([loose])
    for step in range(1, 6):
        call([checked], "on_step", view(step))
        call([checked], "on_epoch", view(step))
    call([checked], "on_end", view(5), False)
    assert seen == [2, 4]
    assert [step for step in range(1, 6) if stops_after([checked], step)] == [2, 4]


def test_a_callback_without_on_step_groups_no_steps():
    class Watcher(Callback):
        def on_epoch(self, run):
            return True

    assert not any(stops_after([Watcher()], step) for step in range(1, 100))


def test_stops_after_chooses_the_steps_of_on_step():
    class AtPowers(Callback):
        def __init__(self):
            self.seen = []

        def stops_after(self, step):
            return step & (step - 1) == 0

        def on_step(self, run):
            self.seen.append(run.step)

    callback = AtPowers()
    for step in range(1, 10):
        call([callback], "on_step", view(step))
    assert callback.seen == [1, 2, 4, 8]


@pytest.mark.parametrize("method", ["on_step", "on_epoch"])
@pytest.mark.parametrize("answer", [True, np.float32(1) < 2, jax.device_put(np.bool_(True))])
def test_those_that_return_true_are_those_that_stop(method, answer):
    yes, no = (types.SimpleNamespace(**{method: lambda run, x=x: x}) for x in (answer, None))
    assert call([no, yes, no], method, view(1)) == [yes]


def test_an_answer_that_is_not_a_truth_value_is_an_error_of_one_line():
    talkative = types.SimpleNamespace(on_epoch=lambda run: run.metrics)
    with pytest.raises(UsageError, match=r"^on_epoch of callback SimpleNamespace must return True .* got \{'loss'"):
        call([talkative], "on_epoch", view(1))


def test_a_misspelled_method_is_named_with_the_closest_one():
    class Loose:
        def on_stepp(self, run):
            return None

    class Derived(Callback):
        def on_epoch(self, run):
            return None

        def on_ends(self, run, failed):
            return None

    class Empty(Callback):
        pass

    for wrong, message in (
        (
            Loose(),
            r"callback Loose has a method that jaxcnn does not call: on_stepp\. "
            r"Did you mean on_step\?",
        ),
        (Derived(), r"callback Derived has a method that jaxcnn does not call: on_ends\. Did you mean on_end\?"),
        (Empty(), r"callback Empty has no callback method\. Define one of on_start, "),
        (Loose, r"callback Loose is a class\. Pass an object: Loose\(\)\."),
        (
            types.SimpleNamespace(step=print),
            r"callback SimpleNamespace has a method that jaxcnn does not call: step\. "
            r"Did you mean on_step\?",
        ),
        (
            print,
            r"callback builtin_function_or_method has no callback method\. "
            "Define one of",
        ),
        (3, r"callback int has no callback method\. Define one of"),
    ):
        with pytest.raises(UsageError, match=f"^{message}") as caught:
            check_callbacks([wrong])
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"^callbacks must be a list, got Empty\. Write callbacks=\[\.\.\.\]\."):
        check_callbacks(Empty())


def test_methods_of_another_library_do_not_disturb():
    both = types.SimpleNamespace(on_epoch=lambda run: None, on_train_end=lambda: None)
    assert check_callbacks([both]) == (both,)


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_every_must_count_steps(every):
    with pytest.raises(
        UsageError, match=r"^the attribute every of callback SimpleNamespace must be an integer of at least 1"
    ):
        check_callbacks([types.SimpleNamespace(on_step=print, every=every)])


def test_state_and_metrics_are_fetched_when_asked_for_and_once():
    fetched = []
    run = view(
        3,
        fetch_state=lambda: fetched.append("state"),
        fetch_metrics=lambda: fetched.append("metrics") or {"loss": 1.0},
        run_evaluation=lambda split: fetched.append(split) or {"loss": 2.0},
    )
    assert not fetched
    for _ in range(2):
        assert run.state is None
        assert run.metrics == {"loss": 1.0}
        assert run.evaluate("test") == {"loss": 2.0}
    assert fetched == ["state", "metrics", "test"]
    with pytest.raises(UsageError, match=r"unknown split 'tset'; did you mean 'test'\?"):
        run.evaluate("tset")
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.step = 4


def test_a_state_that_the_next_step_has_taken_is_an_error_of_one_line():
    array = jax.device_put(np.arange(3.0))
    run = view(3, fetch_state=lambda: jax.device_get(array))
    array.delete()
    with pytest.raises(UsageError, match=r"^run\.state of step 3 was used after the callback had returned"):
        _ = run.state


def test_everybody_gets_on_end_and_the_first_error_counts(caplog):
    ended = []

    def fails(number):
        def on_end(run, failed):
            ended.append((number, failed))
            raise ValueError(f"error {number}")

        return types.SimpleNamespace(on_end=on_end)

    with pytest.raises(ValueError, match="error 1"):
        call([fails(1), fails(2)], "on_end", view(1), False)
    call([fails(3)], "on_end", view(1), True)
    assert ended == [(1, False), (2, False), (3, True)]
    assert "error 3" in caplog.text


def test_fit_calls_every_method_in_order(tmp_path):
    calls = []
    methods = {name: lambda run, *_, name=name: calls.append((name, run.step)) for name in METHODS}
    config = dataclasses.replace(TINY, log_every=3, workdir=str(tmp_path))
    fit(config, callbacks=[types.SimpleNamespace(**methods, every=3)])
    assert calls[0] == ("on_start", 0)
    assert calls[-1] == ("on_end", 6)
    assert [step for name, step in calls if name == "on_step"] == [3, 6]
    names = [name for name, _ in calls]
    assert names.index("on_rows") < names.index("on_save")  # rows reach the disk before the checkpoint
