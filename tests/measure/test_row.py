"""Rows: complete, reproducible by their command, and there whatever happens to their process."""

import re
import shlex
import sys
from dataclasses import replace

import pytest

from benchmarks import devices
from jaxcnn.cli.commands import benchmark as command
from jaxcnn.errors import UsageError
from jaxcnn.measure import Case, Peak, add_scaling, benchmark, grid, measure_case, measure_cases, measure_isolated
from jaxcnn.measure.columns import COLUMNS
from jaxcnn.measure.row import one_line
from jaxcnn.models import create_model

TINY = Case("lenet5", 8, devices=1, steps=2)
ONLY_OF_SEVERAL_DEVICES = {"scaling", "scaling_efficiency"}


@pytest.fixture(scope="module")
def row():
    return measure_case(TINY)


def test_a_row_has_every_column(row):
    assert row["error"] is None
    assert {column.name for column in COLUMNS} - row.keys() == ONLY_OF_SEVERAL_DEVICES
    assert row["params"] == 61_706
    assert row["peak_source"] == "measured"  # no table knows a CPU
    assert row["images_per_second"] == pytest.approx(8e3 / row["step_ms"])
    assert row["step_ms"] <= row["step_ms_p95"]
    assert row["predicted_bytes"] > 2 * 4 * 61_706  # parameters and momentum at least
    assert row["compile_seconds"] > 0 < row["compile_seconds_cached"]


def test_the_stored_command_measures_the_same_case(row, monkeypatch):
    seen = []
    monkeypatch.setattr(command.measure, "benchmark", lambda models, **options: seen.append((models, options)) or [row])
    words = [word for word in shlex.split(row["command"]) if not re.match(r"[A-Z_]+=", word)]
    assert words[:2] == ["jaxcnn", "benchmark"]
    command.run(words[2:])
    models, options = seen[0]
    names = ("batch_sizes", "modes", "dtypes", "parallel", "devices", "steps_per_dispatch")
    again = grid(models, *(options[n] for n in names), image_size=options["image_size"], steps=options["steps"])
    assert again == [replace(TINY, image_size=28)]


@pytest.mark.parametrize(
    "case",
    [
        Case("resnet50", 64, "infer", "bfloat16", "jit", 4, 160, 7),
        Case("vgg16", 6, steps_per_dispatch=3, memory_limit=2**31),
        Case("lenet5", 1, parallel="shard_map"),
        Case("resnet50", 8, model_options=("scan_blocks=True", "remat=(1, 2)")),
    ],
)
def test_the_command_contains_the_whole_case(case, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=b --c=d")
    seen = []

    def stop(models, **options):
        seen.append(options)
        raise UsageError("seen")

    monkeypatch.setattr(command.measure, "benchmark", stop)
    words = shlex.split(case.command())
    assert words[0] == "XLA_FLAGS=--a=b --c=d"
    with pytest.raises(UsageError, match="seen"):
        command.run(words[words.index("benchmark") + 1 :])
    options = seen[0]
    assert options["batch_sizes"] == [case.batch_size]
    assert options["modes"] == [case.mode]
    assert options["dtypes"] == [case.dtype]
    assert options["parallel"] == [case.parallel]
    assert list(options["devices"]) == [case.devices]
    assert options["image_size"] == case.image_shape[0]
    assert options["steps"] == case.steps
    assert options["steps_per_dispatch"] == [case.steps_per_dispatch]
    assert options["memory_limit"] == case.memory_limit
    assert options["model_options"] == case.model_options


def test_a_case_builds_the_model_with_its_options():
    case = Case("resnet20_cifar", model_options=("scan_blocks=True",))
    assert case.create_model() == create_model("resnet20_cifar", scan_blocks=True)
    assert Case("lenet5", model_options=["a=1"]) == Case("lenet5", model_options=("a=1",))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^unknown field of lenet5 'scan_blocks'"):
        grid(["lenet5"], model_options=("scan_blocks=True",))


@pytest.mark.usefixtures("compile_quickly")
def test_too_little_memory_is_reported_in_the_row_and_nothing_runs():
    row = measure_case(replace(TINY, memory_limit=10_000))
    assert row["error"].startswith("out of memory: XLA predicts that the program needs ")
    assert row["predicted_bytes"] > 10_000
    assert "step_ms" not in row


def test_the_batch_is_doubled_until_memory_runs_out():
    def measure(case, report):
        ended = case.batch_size > 32
        return {**vars(case), "error": "out of memory" if ended else None, "images_per_second": None}

    rows = measure_cases([replace(TINY, batch_size=8)], auto_batch=True, measure=measure)
    assert [row["batch_size"] for row in rows] == [8, 16, 32, 64]
    assert rows[-1]["error"]


def child(code):
    return (sys.executable, "-c", f"import json, os, sys, time; {code}")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("os.kill(os.getpid(), 9)", r"out of memory: the process was killed by SIGKILL"),
        ("os.abort()", "ended by SIGABRT"),
        ("sys.exit('a driver is missing')", "status 1: a driver is missing"),
        ("time.sleep(60)", "took more than 0.5 s"),
    ],
)
def test_a_process_that_dies_is_reported_in_the_row(code, says):
    timeout = 0.5 if "sleep" in code else None
    row = measure_isolated(TINY, timeout=timeout, child=child(code))
    assert re.search(says, row["error"])
    assert (row["model"], row["batch_size"]) == ("lenet5", 8)
    assert row["command"] == TINY.command()


def test_messages_of_the_process_arrive():
    heard = []
    code = 'json.load(sys.stdin); print(\'{"doing": "compiling"}\'); print(\'{"row": {"x": 1}}\')'
    assert measure_isolated(TINY, heard.append, child=child(code)) == {"x": 1}
    assert heard == ["compiling"]
    with pytest.raises(UsageError, match="no such thing"):
        measure_isolated(TINY, child=child('print(\'{"mistake": "no such thing"}\')'))


def test_every_form_of_running_out_of_memory_is_recognized():
    assert one_line(MemoryError()) == "out of memory: MemoryError"
    told = one_line(RuntimeError("RESOURCE_EXHAUSTED: Failed to allocate 4 bytes\nlong\ntrace"))
    assert told == "out of memory: RESOURCE_EXHAUSTED: Failed to allocate 4 bytes"
    assert one_line(ValueError("something else")) == "something else"


@pytest.mark.slow
def test_scaling_over_fake_devices_prints_its_efficiency(monkeypatch):
    monkeypatch.setattr("jaxcnn.measure.row.device_peak", lambda *_: Peak(1e12, "measured", "f32"))
    cases = [Case("lenet5", 4 * n, devices=n, steps=1) for n in (1, 2, 4, 8)]
    rows = measure_cases(cases, measure=lambda case, report: measure_case(case))
    assert [row["error"] for row in rows] == [None] * 4
    assert all(row["fake_devices"] for row in rows[1:])
    first = rows[0]["images_per_second"]
    for row in rows[1:]:
        assert row["scaling"] == "weak"
        assert row["scaling_efficiency"] == pytest.approx(row["images_per_second"] / first)
        assert row["collective_bytes"] == pytest.approx(4 * row["params"], abs=12)
    assert rows[0]["collective_bytes"] == 0
    printed = devices.table(rows).splitlines()
    assert [line.split()[2] for line in printed[1:5]] == ["1", "2", "4", "8"]
    assert all(line.count("%") == 1 for line in printed[2:5])
    assert "Fake" in printed[-1]


def test_scaling_compares_with_the_same_number_of_single_devices():
    def row(devices, batch, rate):
        return {"devices": devices, "batch_size": batch, "images_per_second": rate, "fake_devices": False}

    rows = [row(1, 32, 100.0), row(4, 128, 360.0), row(4, 32, 200.0)]
    add_scaling(rows)
    assert [(r["scaling"], r["scaling_efficiency"]) for r in rows] == [(None, None), ("weak", 0.9), ("strong", 0.5)]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": "resnet5"}, "did you mean"),
        ({"modes": ["trian"]}, "did you mean 'train'"),
        ({"dtypes": ["float23"]}, "did you mean 'float32'"),
        ({"parallel": ["pmpa"]}, "did you mean 'pmap'"),
        ({"batch_sizes": [0]}, "batch_size must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"modes": ["infer"], "steps_per_dispatch": [4]}, "must be 1 in mode 'infer'"),
    ],
)
def test_mistakes_are_reported_before_anything_is_measured(given, says):
    with pytest.raises(UsageError, match=says):
        benchmark(**{"model": "lenet5", **given}, on_row=lambda row: pytest.fail("measured"))


@pytest.mark.usefixtures("compile_quickly")
def test_several_steps_a_dispatch_make_the_same_updates():
    import jax
    import numpy as np

    from jaxcnn.measure.probes.program import build, random_batch

    many, one = Case("lenet5", 4, devices=1, steps_per_dispatch=3), Case("lenet5", 4, devices=1)
    program = build(many)
    state, _ = program.compiled(*program.args)
    single = build(one)
    expected = single.args[0]
    whole = random_batch(many, 10)
    for part in range(3):
        batch = {name: array[part::3] for name, array in whole.items()}
        shaped = jax.tree.map(lambda new, like: new.reshape(like.shape), batch, single.args[1])
        placed = jax.device_put(shaped, single.compiled.input_shardings[0][1])
        expected, _ = single.compiled(expected, placed)
    assert int(state.step) == int(expected.step) == 3
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(("devices", "sizes"), [(None, [8, 16, 32]), (3, [9, 18, 36]), (16, [16, 32, 64])])
def test_automatic_batch_sizes_are_multiples_of_the_devices(devices, sizes):
    def measure(case, report):
        return {"batch_size": case.batch_size, "error": "no memory" if case.batch_size >= sizes[-1] else None}

    rows = measure_cases([Case("lenet5", 8, devices=devices)], auto_batch=True, measure=measure)
    assert [row["batch_size"] for row in rows] == sizes
