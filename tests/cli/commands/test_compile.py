"""`jaxcnn compile`: a table that fits, JSON, files, and one line for every mistake."""

import dataclasses
import json

import pytest
from rich.console import Console

from jaxcnn.aot import parse_target
from jaxcnn.aot.report import Memory, Report, with_times
from jaxcnn.cli import main
from jaxcnn.cli.commands import compile as command
from jaxcnn.train import Config

LIKE = {"model": "resnet50", "dtype": "bfloat16", "parallel": "shard_map", "image_shape": (224, 224, 3)}


def report(name, **changes):
    target = parse_target(name)
    memory = Memory(10**8, 10**8, 0, 10**7, 4 * 10**9, 10**6, 0, 5 * 10**9, 16 * 10**9)
    costs = {"flops": 3.09e12, "model_flops": 3.1e12, "bytes_accessed": 3.39e10, "intensity": 91.2, "padding": 0.03}
    transfer = {"kind": "all-reduce", "group": target.count, "count": 101, "bytes": 1.03e8, "seconds": 0.001}
    made = Report(
        target.name,
        target.kind,
        target.count,
        batch_size=128 * target.count,
        fits=True,
        missing_bytes=0,
        memory=memory,
        transfers=(transfer,),
        compile_cpu_seconds=31.0,
        **costs,
        **LIKE,
    )
    return dataclasses.replace(with_times(made, target), **changes)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "no target given"),
        (["--for", "v5x:2x4"], "unknown target 'v5x'; did you mean"),
        (["--for", "cpu", "--batch-size", "auto"], "needs the memory size of target cpu, and this size is unknown"),
        (["--for", "cpu", "--batch-size", "auto", "--per-device"], "mutually exclusive"),
        (["--for", "cpu", "--batch-size", "0"], "batch_size"),
        (["--for", "cpu", "--model", "resnet5"], "did you mean 'resnet50'"),
        (["--for", "cpu", "--timeout", "0"], "--timeout must be a positive number"),
        (["--for", "cpu", "--compiler-effort", "O7"], "O7"),
        (["--for", "cpu", "--dataset", "imagenet2012"], "--image-size"),
    ],
)
def test_a_mistake_is_one_line(args, says, capsys):
    assert main(["compile", *args]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1


def test_the_table_fits_and_states_every_part(capsys):
    names = ["v5e:2x4", "v5e:16x16", "v5p:2x2x2", "v6e:4x4", "h100", "h100:8"]
    reports = [report(name) for name in names]
    reports[1] = report("v5e:16x16", fits=False, missing_bytes=2**30, memory=None, step_seconds=None)
    command.print_reports(Console(width=80), reports, Config(model="resnet50", dtype="bfloat16"))
    out = capsys.readouterr().out
    table = [line for line in out.splitlines() if line.startswith(("│", "┃"))]
    assert max(map(len, table)) <= command.WIDTH
    assert all(name in out for name in names)
    assert "no, +1 GiB" in out
    assert "memory" in out
    assert "The step is compiled with shard_map" in out


def test_many_targets_take_several_tables(capsys):
    command.print_reports(Console(width=80), [report("v5e:16x16")] * 9, Config(model="resnet50"))
    tables = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("┏") for line in tables) == 2
    assert max(len(line) for line in tables if line.startswith(("│", "┃"))) <= command.WIDTH


def test_the_cpu_is_compiled_for_and_reported_as_json(capsys, tmp_path):
    args = ["compile", "--for", "cpu", "--batch-size", "8", "--json", "--out", str(tmp_path / "out")]
    assert main(args) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert (found["target"], found["batch_size"], found["fits"]) == ("cpu", 8, True)
    assert json.loads((tmp_path / "out" / command.REPORTS).read_text())["reports"] == [found]


def test_each_target_has_a_line_when_it_is_done(monkeypatch, capsys):
    done = [report("v5e:2x4"), report("h100", fits=False), report("cpu"), report("h200", error="took too long")]

    def compile_all(*_, on_report, **__):
        for made in done:
            on_report(made)
        return done

    monkeypatch.setattr(command.aot, "compile_all", compile_all)
    assert main(["compile", "--for", "v5e:2x4,h100,cpu,h200"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "v5e:2x4: at most 24,739 images/s, bound by memory"
    assert lines[1:4] == ["h100: does not fit", "cpu: 3.09 T FLOPs, 33.9 GB accessed", "h200: took too long"]


def test_a_failure_of_every_target_is_an_exit_status(monkeypatch, capsys):
    monkeypatch.setattr(command.aot, "compile_all", lambda *_, **__: [report("h100", error="took more than 1 s")])
    assert main(["compile", "--for", "h100"]) == 1
    assert "no target could be compiled: h100: took more than 1 s" in capsys.readouterr().err


def test_trials_of_the_largest_batch_are_listed(capsys):
    tried = ((32, True), (496, True), (512, False))
    command.print_reports(Console(width=80), [report("v5e:2x4", tried=tried)], Config(model="resnet50"))
    assert "v5e:2x4, batch per chip: 32 fits, 496 fits, 512 does not fit" in capsys.readouterr().out
