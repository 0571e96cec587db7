"""The benchmark of recomputed blocks: it continues, and its page holds predictions against compiled steps."""

import importlib.util

import pytest

from benchmarks.remat import __main__ as command
from benchmarks.remat import predicted, rows
from benchmarks.results import read_lines
from jaxcnn.aot import Memory, Report


@pytest.fixture
def compiled(monkeypatch):
    """Replace the compilers; return the (target, options, batch size) of each compilation, and the sizes that fail."""
    calls, failing = [], set()

    def compile_for(target, config, *, per_device, timeout):
        assert per_device
        calls.append((target, config.model_options, config.batch_size))
        like = {"model": config.model, "dtype": config.dtype, "parallel": "shard_map", "image_shape": (28, 28, 1)}
        known = {"device": "a chip", "chips": 1, "batch_size": config.batch_size, "compiler": "xla 1", **like}
        if config.model_options[0] in failing:
            return Report(target, error="took more than 1 s", **known)
        memory = Memory(2**20, 2**20, 0, 0, 3 * 10**9, 0, 0, 4 * 10**9, 2**34)
        return Report(target, fits=True, memory=memory, bytes_accessed=5e9, **known)

    numbers = {"predicted": 2 * 10**9, "gradients": 5 * 10**8, "blocks": 16, "recomputed": 4, "macs": 1, "all_macs": 4}
    monkeypatch.setattr(command, "compile_for", compile_for)
    monkeypatch.setattr(command, "plans", lambda model, batch, remat: {"budget": int(remat[:-2] or 0), **numbers})
    return calls, failing


def test_the_same_command_continues_and_failures_are_tried_again(compiled, tmp_path):
    calls, failing = compiled
    flags = ["--targets", "h100", "--cases", "vgg16:2GB,vgg16:1GB", "--out", str(tmp_path)]
    failing.add("remat=2GB")
    assert command.main(flags) == 1
    assert calls == [("h100", ("remat=2GB",), 64), ("h100", ("remat=1GB",), 64)]
    assert "took more than 1 s" in (tmp_path / "README.md").read_text()
    failing.clear()
    assert command.main(flags) == 0
    assert calls[2:] == [("h100", ("remat=2GB",), 64)]
    assert [row["remat"] for row in read_lines(tmp_path)] == ["2GB", "1GB"]  # from the largest size on
    assert command.main([*flags, "--again"]) == 0
    assert len(calls) == 5


def test_no_compilation_starts_after_the_time_limit(compiled, tmp_path):
    assert command.main(["--minutes", "0", "--out", str(tmp_path)]) == 1
    assert compiled[0] == []


def test_the_page_has_a_row_for_each_case(compiled, tmp_path):
    command.main(["--targets", "h100", "--cases", "resnet50:3GB", "--out", str(tmp_path)])
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert "## h100, xla 1" in lines
    assert lines[-1] == "| resnet50 | 128 | `3GB` | 4 of 16 | 25% | 2.00 | 0.50 | 3.00 | 1.20 |"


def test_numbers_of_a_case_follow_from_shapes():
    everything = predicted.plans("resnet18", 2, "False")
    assert (everything["blocks"], everything["recomputed"], everything["macs"]) == (8, 0, 0)
    assert everything["gradients"] == 4 * 11_689_512  # the published number of parameters
    size = f"{everything['predicted'] * 0.9 / 1e6:.1f}MB"
    some = predicted.plans("resnet18", 2, size)
    assert 0 < some["recomputed"] < 8
    assert 0 < some["macs"] < some["all_macs"] == everything["all_macs"]
    assert some["predicted"] <= some["budget"] < everything["predicted"]


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


TOLERANCE = {"resnet50": (0.85, 1.35)}
"""Least and largest ratio of temporaries to predicted activations and gradients.

These are most of the temporaries of ResNet-50, and half of those of VGG-16.
"""

TARGETS = [pytest.param("v5e:1x1", marks=needs("libtpu")), pytest.param("h100", marks=needs("jax_cuda13_plugin"))]


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("case", [case for case in command.CASES if case.split(":")[0] in TOLERANCE])
@pytest.mark.parametrize("target", TARGETS)
def test_predictions_are_near_the_temporaries_of_compiled_steps(target, case):
    row = command.measure(target, *case.split(":"), timeout=1800.0)
    assert row["error"] is None
    least, most = TOLERANCE[row["model"]]
    assert least <= rows.ratio(row) <= most


def test_the_rows_of_the_results_are_within_the_tolerance():
    results = [row for row in read_lines(command.RESULTS / "remat") if row["model"] in TOLERANCE]
    assert results
    for row in results:
        least, most = TOLERANCE[row["model"]]
        assert least <= rows.ratio(row) <= most, rows.key(row)
