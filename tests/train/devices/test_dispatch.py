"""A run is the same whether its steps are made one by one or several in a call."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcnn.train import Config, fit
from jaxcnn.train.devices.dispatch import dispatches
from jaxcnn.train.runtime.record import read_rows

counts = st.integers(1, 9)


@given(last=st.integers(0, 60), count=counts, stops=st.sets(st.integers(1, 60)))
def test_calls_make_every_step_and_never_go_past_a_stop(last, count, stops):
    step = 0
    for made in dispatches(0, last, count, stops.__contains__):
        assert made in (1, count)
        assert not stops & {*range(step + 1, step + made)}
        step += made
    assert step == last


@given(last=st.integers(1, 60), count=counts, stops=st.sets(st.integers(1, 60)), data=st.data())
def test_which_steps_go_together_does_not_depend_on_where_a_run_is_continued(last, count, stops, data):
    def ends(first):
        step, found = first, []
        for made in dispatches(first, last, count, stops.__contains__):
            step += made
            found.append(step)
        return found

    whole = ends(0)
    stopped = data.draw(st.sampled_from(whole))
    assert ends(stopped) == [end for end in whole if end > stopped]


def test_without_stops_all_but_the_rest_go_together():
    assert list(dispatches(0, 14, 4, lambda step: False)) == [4, 4, 4, 1, 1]


# An epoch has 10 steps: the run's ends of epochs, checkpoints, logs and calls all differ.
RUN = Config(steps=22, batch_size=1000, progress=False, log_every=3, checkpoint_every=8, steps_per_dispatch=1)


@pytest.fixture(scope="module")
def singly(tmp_path_factory):
    return fit(dataclasses.replace(RUN, workdir=str(tmp_path_factory.mktemp("singly"))))


def rows(run):
    return [{**row, "split": ["train", "test"].index(row["split"])} for row in read_rows(run.workdir)]


@pytest.mark.parametrize("count", [4, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_is_the_same_with_several_steps_in_a_call(singly, tmp_path, count):
    run = fit(dataclasses.replace(RUN, steps_per_dispatch=count, workdir=str(tmp_path)))
    for a, b in zip(rows(singly), rows(run), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    saved = [sorted(path.name for path in (r.workdir / "checkpoints").iterdir()) for r in (singly, run)]
    assert saved[0] == saved[1]
    assert run.test_accuracy == pytest.approx(singly.test_accuracy, abs=0.002)


def test_such_a_run_is_continued_to_the_same_end_to_the_last_bit(tmp_path):
    config = dataclasses.replace(RUN, steps_per_dispatch=4, workdir=str(tmp_path))
    whole = fit(config)
    (tmp_path / "result.json").unlink()
    for path in sorted((tmp_path / "checkpoints" / "22").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "checkpoints" / "22").rmdir()
    assert fit(config).values["state_sha256"] == whole.values["state_sha256"]
