"""Event files, Weights & Biases and profiles get each row, picture and step once, and survive faults."""

import contextlib
import dataclasses
import gzip
import json
import re
import subprocess
from pathlib import Path

import jax
import pytest

from jaxcnn.errors import RunError, UsageError
from jaxcnn.train import Config, InterruptedRunError, fit
from jaxcnn.train.callbacks import Callback, RunView, call, stops_after
from jaxcnn.train.runtime.callbacks import Profile, TensorBoard, WeightsAndBiases, built_in, parse_profile

TINY = Config(steps=6, batch_size=8, progress=False)


def view(folder, step=0, *, first_step=0, **changed):
    parts = {
        "fetch_state": lambda: None,
        "fetch_metrics": dict,
        "run_evaluation": dict,
        **changed,
    }
    return RunView(step, step / 10, 100, first_step, Path(folder), TINY, **parts)


def row(step, split="train", **more):
    return {"split": split, "step": step, "epoch": step / 10, "loss": 1.0 / step, **more}


# TensorBoard.


def events(path):
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    contents, position, found = path.read_bytes(), 0, []

    def checked(length):
        nonlocal position
        part, checksum = contents[position : position + length], contents[position + length :][:4]
        assert int.from_bytes(checksum, "little") == masked_crc32c(part)
        position += length + 4
        return part

    while position < len(contents):
        found.append(event_pb2.Event.FromString(checked(int.from_bytes(checked(8), "little"))))
    return found


@contextlib.contextmanager
def started(callback, folder, first_step=0):
    callback.on_start(view(folder, first_step, first_step=first_step))
    try:
        yield callback
    finally:
        callback.on_end(view(folder, first_step), False)


def test_events_have_the_numbers_of_rows_of_every_split(tmp_path):
    rows = [
        row(1, learning_rate=0.5),
        row(1, "validation", examples=9, top5=0.75, recall=[0.5, 1.0], confusion=[[1, 2], [3, 4]], note="x"),
        row(1, "test", accuracy=1, examples=9),
    ]
    with started(TensorBoard(), tmp_path) as callback:
        callback.on_rows(view(tmp_path, 1), rows)
        (path,) = tmp_path.glob("events.out.tfevents.*")
        # They are with the operating system before the run ends.
        values = {v.tag: (e.step, v.simple_value) for e in events(path) for v in e.summary.value}
    assert values == {
        "train/loss": (1, 1.0),
        "train/learning_rate": (1, 0.5),
        "validation/loss": (1, 1.0),
        "validation/top5": (1, 0.75),
        "test/loss": (1, 1.0),
        "test/accuracy": (1, 1.0),
    }


def test_tensorboard_forgets_the_steps_that_are_made_again(tmp_path):
    from tensorboardX.proto import event_pb2

    with started(TensorBoard(), tmp_path) as callback:
        callback.on_rows(view(tmp_path, 3), [row(step) for step in (1, 2, 3)])
    with started(TensorBoard(), tmp_path, first_step=2) as callback:
        callback.on_rows(view(tmp_path, 3), [row(3)])
    first, second = sorted(tmp_path.glob("events.*"), key=lambda path: path.suffix)
    told = [(e.step, e.summary.value[0].tag) for e in events(first) if e.summary.value]
    assert [step for step, tag in told if tag == "train/loss"] == [1, 2, 3]
    (start,) = [e.step for e in events(second) if e.session_log.status == event_pb2.SessionLog.START]
    assert start == 3


def test_only_a_save_waits_for_the_disk(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr("os.fsync", waited.append)
    with started(TensorBoard(), tmp_path) as callback:
        callback.on_rows(view(tmp_path, 1), [row(1)])
        assert not waited
        callback.on_save(view(tmp_path, 1))
        assert len(waited) == 1


def test_one_callback_serves_two_runs(tmp_path):
    callback = TensorBoard()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with started(callback, tmp_path / name):
            callback.on_rows(view(tmp_path / name, 1), [row(1)])
        (path,) = (tmp_path / name).glob("events.*")
        assert len([e for e in events(path) if e.summary.value]) == 1


@contextlib.contextmanager
def full_disk(folder):
    """A file system of its own without free space."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")

    def fill():
        with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))

    try:
        yield fill
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_events_that_cannot_be_written_are_one_line_and_nothing_hangs(tmp_path):
    message = r"events\.out\.tfevents\.\S+ cannot be written: No space left on device\. Checkpoints are kept\.$"
    with full_disk(tmp_path / "disk") as fill, started(TensorBoard(), tmp_path / "disk") as callback:
        run = view(tmp_path / "disk", 1)
        fill()
        with pytest.raises(RunError, match=message):
            # More than the block of the file that exists holds.
            callback.on_rows(run, [row(step) for step in range(1, 2000)])
        with pytest.raises(RunError, match=message):
            callback.on_save(run)


# Profiles.


def traces(folder):
    return sorted(folder.glob("profile/plugins/profile/*/*.xplane.pb"))


class Profiler:
    """Notes when `jax.profiler` starts and stops, and which steps the devices have made by then."""

    def __init__(self, monkeypatch):
        self.calls = []
        monkeypatch.setattr("jax.profiler.start_trace", lambda folder: self.calls.append("start"))
        monkeypatch.setattr("jax.profiler.stop_trace", lambda: self.calls.append("stop"))

    def run(self, folder, profile, steps, first_step=0, failed=False):
        def at(step):
            return view(folder, step, first_step=first_step, wait=lambda: self.calls.append("wait"))

        call([profile], "on_start", at(first_step))
        for step in range(first_step + 1, steps + 1):
            self.calls.append(step)
            call([profile], "on_step", at(step))
        call([profile], "on_end", at(steps), failed)
        return self.calls


@pytest.mark.parametrize(
    ("first", "last", "first_step", "calls"),
    [
        (2, 3, 0, [1, "wait", "start", 2, 3, "wait", "stop", 4, 5]),
        (1, 1, 0, ["start", 1, "wait", "stop", 2, 3, 4, 5]),
        (5, 5, 0, [1, 2, 3, 4, "wait", "start", 5, "wait", "stop"]),
        (4, 9, 0, [1, 2, 3, "wait", "start", 4, 5, "wait", "stop"]),  # the run ends within the range
        (2, 4, 3, ["start", 4, "wait", "stop", 5]),  # the run is resumed within the range
        (2, 3, 1, ["start", 2, 3, "wait", "stop", 4, 5]),
        (2, 3, 3, [4, 5]),
    ],
)
def test_exactly_the_steps_of_the_range_are_traced(tmp_path, monkeypatch, first, last, first_step, calls):
    said = []
    profile = Profile(first, last, show=said.append)
    assert Profiler(monkeypatch).run(tmp_path, profile, 5, first_step) == calls
    (line,) = said
    made = [step for step in calls if isinstance(step, int) and first <= step <= last]
    if made:
        steps = f"steps {made[0]} to {made[-1]}" if len(made) > 1 else f"step {made[0]}"
        assert line.startswith(f"profile of {steps}: ")
    else:
        assert line == "no profile: steps 2 to 3 were made before this start of the run"


def test_a_failed_run_does_not_wait_for_devices_and_keeps_the_trace(tmp_path, monkeypatch):
    calls = Profiler(monkeypatch).run(tmp_path, Profile(2, 9, show=print), 3, failed=True)
    assert calls == [1, "wait", "start", 2, 3, "stop"]


def test_no_call_of_grouped_steps_crosses_the_range():
    profile = Profile(10, 20)
    assert [step for step in range(1, 100) if stops_after([profile], step)] == [9, 20]
    assert [step for step in range(1, 100) if stops_after([Profile(1, 4)], step)] == [4]


def test_a_trace_of_a_run_holds_its_steps_and_says_how_to_open_it(tmp_path):
    said = []
    config = dataclasses.replace(TINY, steps_per_dispatch=2, workdir=str(tmp_path))
    fit(config, callbacks=[Profile(4, 5, show=said.append)])
    (path,) = traces(tmp_path)
    assert path.stat().st_size > 0
    (line,) = said
    shown = Path(re.match(r"profile of steps 4 to 5: (\S+\.json\.gz)\. Open it at https://ui\.perfetto\.dev", line)[1])
    assert shown.parent == path.parent
    assert json.loads(gzip.decompress(shown.read_bytes()))["traceEvents"]


def test_a_run_that_is_stopped_within_the_range_keeps_its_trace(tmp_path):
    class Stops(Callback):
        def on_step(self, run):
            if run.step == 3:
                raise InterruptedRunError(15, run.step, run.steps, run.folder)

    said = []
    config = dataclasses.replace(TINY, workdir=str(tmp_path))
    with pytest.raises(InterruptedRunError):
        fit(config, callbacks=[Stops(), Profile(2, 5, show=said.append)])
    assert len(traces(tmp_path)) == 1
    assert said[0].startswith("profile of steps 2 to 3: ")
    # The profiler is free again.
    jax.profiler.start_trace(tmp_path / "other")
    jax.profiler.stop_trace()


def test_another_trace_is_left_alone(tmp_path):
    jax.profiler.start_trace(tmp_path / "mine")
    try:
        with pytest.raises(
            UsageError,
            match=r"^the profile cannot start: "
            r".* Stop the trace that is already running\.$",
        ):
            call([Profile(1, 2)], "on_start", view(tmp_path))
        call([Profile(1, 2)], "on_end", view(tmp_path), True)
    finally:
        jax.profiler.stop_trace()
    assert list((tmp_path / "mine").rglob("*.xplane.pb"))


def test_a_trace_on_a_full_disk_is_one_line(tmp_path):
    said = []
    with full_disk(tmp_path / "disk") as fill:
        profile = Profile(1, 2, show=said.append)
        profile.on_start(view(tmp_path / "disk"))
        fill()
        with pytest.raises(RunError, match=r"profile cannot be written: .*No space left.* Checkpoints are kept\.$"):
            profile.on_step(view(tmp_path / "disk", 2))
        assert not said
    # JAX 0.10 does not end a trace that it cannot write.
    with contextlib.suppress(RuntimeError):
        jax.profiler.stop_trace()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ten:20", r"profile must be FIRST:LAST, such as 10:20, got 'ten:20'"),
        ("10", r"profile must be FIRST:LAST"),
        ("-1:5", r"profile must be FIRST:LAST"),
        ("1:2\n", r"profile must be FIRST:LAST, such as 10:20, got '1:2\\n'"),
        ("1:" + "9" * 5000, r"profile must be FIRST:LAST"),
        ("0:5", r"profile 0:5 is below the first step\. Count steps from 1\."),
        ("5:0", r"profile 5:0 is below the first step"),
        ("20:10", r"profile 20:10 is reversed\. Use 10:20\."),
        ("10:101", r"profile 10:101 is beyond the 100 steps of the run\. Use 10:100\."),
        ("200:300", r"profile 200:300 is beyond the 100 steps of the run\. Use steps from 1 to 100\."),
    ],
)
def test_a_range_that_cannot_be_is_one_line(text, message):
    with pytest.raises(UsageError, match=f"^{message}") as caught:
        parse_profile(text, 100)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_ranges_are_inclusive_and_may_be_one_step_or_all():
    assert [parse_profile(text, 100) for text in ("10:20", "5:5", "1:100")] == [(10, 20), (5, 5), (1, 100)]


def test_a_profile_in_python_is_checked_too(tmp_path):
    with pytest.raises(UsageError, match="profile 3:2 is reversed"):
        Profile(3, 2)
    with pytest.raises(UsageError, match="profile 3:9 is beyond the 6 steps of the run"):
        fit(dataclasses.replace(TINY, workdir=str(tmp_path)), callbacks=[Profile(3, 9)])


# Which of them a run has.


def test_the_first_process_writes_and_all_group_steps_alike(monkeypatch):
    def kinds():
        return [type(callback) for callback in built_in(wandb=True, profile=(1, 2), show=print)]

    assert kinds() == [TensorBoard, WeightsAndBiases, Profile]
    monkeypatch.setattr("jaxcnn.train.runtime.callbacks.is_first", lambda: False)
    assert kinds() == [Profile]
    assert [type(callback) for callback in built_in(wandb=False, profile=None, show=print)] == []


def test_other_processes_trace_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxcnn.train.runtime.callbacks.profile.is_first", lambda: False)
    profiler = Profiler(monkeypatch)
    profiler.run(tmp_path, Profile(2, 3, show=pytest.fail), 4)
    profiler.run(tmp_path, Profile(2, 3, show=pytest.fail), 6, first_step=5)
    assert not {"start", "stop"} & set(profiler.calls)
