"""The benchmark that compiles families of models: it continues, and its page states what the rows say."""

import pytest

from benchmarks.compile_families import __main__ as command
from benchmarks.results import read_lines
from jaxcnn.aot import Memory, Report


@pytest.fixture
def compiled(monkeypatch):
    """Replace the compilers; return the (target, model, batch size) of each compilation, and the models that fail."""
    calls, failing = [], set()

    def compile_for(target, config, *, per_device, timeout):
        assert per_device
        calls.append((target, config.model, config.batch_size))
        like = {"model": config.model, "dtype": config.dtype, "parallel": "shard_map", "image_shape": (28, 28, 1)}
        known = {"device": "a chip", "chips": 1, "batch_size": config.batch_size, "compiler": "xla 1", **like}
        if config.model in failing:
            return Report(target, error="took more than 1 s", **known)
        memory = Memory(2**20, 2**20, 0, 0, 2**30, 0, 0, 2**30 + 2**21, 2**34)
        return Report(
            target, fits=True, memory=memory, flops=9e11, model_flops=1e12, bytes_accessed=5e9, bound="memory",
            step_seconds=0.002, images_per_second=64e3, compile_cpu_seconds=12.0,
            transfers=({"kind": "all-reduce", "group": 4, "count": 7.0, "bytes": 1.0, "seconds": 0.0},), **known,
        )  # fmt: skip

    monkeypatch.setattr(command, "compile_for", compile_for)
    return calls, failing


def test_the_same_command_continues_and_failures_are_tried_again(compiled, tmp_path):
    calls, failing = compiled
    flags = ["--targets", "h100", "--models", "vgg11,lenet5", "--out", str(tmp_path)]
    failing.add("vgg11")
    assert command.main(flags) == 1
    assert calls == [("h100", "vgg11", 64), ("h100", "lenet5", 128)]
    assert "vgg11: took more than 1 s" in (tmp_path / "README.md").read_text()
    failing.clear()
    assert command.main(flags) == 0
    assert calls[2:] == [("h100", "vgg11", 64)]
    assert [row["model"] for row in read_lines(tmp_path)] == ["lenet5", "vgg11"]  # in the order of the families
    assert command.main([*flags, "--again"]) == 0
    assert len(calls) == 5


def test_no_compilation_starts_after_the_time_limit(compiled, tmp_path):
    calls, _ = compiled
    assert command.main(["--minutes", "0", "--out", str(tmp_path)]) == 1
    assert calls == []


def test_the_page_has_a_row_for_each_model_and_target(compiled, tmp_path):
    command.main(["--models", "lenet5", "--out", str(tmp_path)])
    lines = (tmp_path / "README.md").read_text().splitlines()
    cells = "1 MiB | 1 GiB | 1 GiB | yes | 0.9 | 0.900 | 5 | memory | 2 | 64,000 | 7 | 12"
    assert lines.count(f"| lenet5 | 128 x 28x28x1 | {cells} |") == 2
    assert "## h100: a chip, xla 1" in lines
    assert sum(line.startswith("Not compiled yet: lenet5_1998, alexnet_two_tower") for line in lines) == 2


def test_an_unknown_model_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["--models", "resnet50"])
    assert "resnet50" in capsys.readouterr().err
