"""`compare` finds what became slower and lets noise pass."""

import json
import time

import numpy as np
import pytest

from jaxcnn.cli import main
from jaxcnn.measure import compare, time_step
from jaxcnn.measure.compare import noise

CASE = {
    "model": "lenet5",
    "image_size": "28x28x1",
    "batch_size": 64,
    "mode": "train",
    "dtype": "float32",
    "parallel": "pmap",
    "devices": 1,
    "steps_per_dispatch": 1,
    "error": None,
}


def measured(ms, seed=0, wobble=0.05, **changed):
    """A row whose samples wander around `ms`, with now and then a late one, as on a shared machine."""
    generator = np.random.default_rng(seed)
    samples = ms * (1 + wobble * generator.standard_normal(40))
    samples[generator.integers(0, 40, 3)] *= 2
    return {**CASE, "samples_ms": samples.tolist(), "step_ms": float(np.median(samples)), **changed}


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_slowdown_of_20_percent_is_found_and_a_rerun_passes(seed):
    old = [measured(10.0, seed), measured(50.0, seed + 100, batch_size=128)]
    rerun = [measured(10.0, seed + 200), measured(50.0, seed + 300, batch_size=128)]
    slower = [measured(12.0, seed + 200), measured(50.0, seed + 300, batch_size=128)]
    assert [c.verdict for c in compare(old, rerun)] == ["same", "same"]
    assert [c.verdict for c in compare(old, slower)] == ["slower", "same"]
    assert [c.verdict for c in compare(slower, old)] == ["faster", "same"]


def test_a_step_that_sleeps_longer_is_found():
    def row(seconds):
        timing = time_step(lambda: time.sleep(seconds), steps=10, warmup=1, min_window=0.0)
        return {**CASE, "samples_ms": [1e3 * s for s in timing.samples], "step_ms": 1e3 * timing.median}

    old, new = row(0.05), row(0.06)
    (found,) = compare([old], [new])
    assert found.ratio == pytest.approx(1.2, rel=0.2)
    # On a machine that is so busy that the sleeps themselves wander, the band says so in place of a false verdict.
    assert found.verdict == "slower" or found.band > 0.1
    assert compare([old], [old])[0].verdict == "same"


def test_the_band_grows_with_the_noise():
    quiet, loud = measured(10.0, wobble=0.01), measured(10.0, wobble=0.3)
    assert noise(quiet) < 0.02 < noise(loud)
    drifting = {**CASE, "samples_ms": list(np.linspace(10, 14, 40)), "step_ms": 12.0}
    assert noise(drifting) > 0.1
    assert compare([drifting], [measured(13.0)])[0].verdict == "same"


def test_failing_rows_are_regressions_and_others_are_named():
    failed = {**CASE, "error": "out of memory"}
    other = measured(1.0, model="resnet18")
    assert [c.verdict for c in compare([measured(10.0)], [failed])] == ["failed"]
    assert [c.verdict for c in compare([failed], [measured(10.0)])] == ["fixed"]
    assert [c.verdict for c in compare([failed], [failed])] == ["still fails"]
    assert [c.verdict for c in compare([measured(10.0)], [other])] == ["gone", "added"]
    assert [c.is_regression for c in compare([measured(10.0)], [failed, other])] == [True, False]


def test_rows_of_one_case_are_joined():
    (found,) = compare([measured(10.0, 1), measured(10.0, 2)], [measured(12.5, 3), measured(12.5, 4)])
    assert found.verdict == "slower"
    assert len(found.old["samples_ms"]) == 80


def test_the_command_exits_with_1_on_a_regression_and_0_without(tmp_path, capsys):
    for name, ms, seed in (("old", 10.0, 1), ("again", 10.0, 2), ("slow", 12.0, 3)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": [measured(ms, seed, jax=name)]}))
    old, again, slow = (str(tmp_path / f"{name}.json") for name in ("old", "again", "slow"))
    assert main(["benchmark", "compare", old, again]) == 0
    out, err = capsys.readouterr()
    assert "same" in out
    assert "jax differs: old -> again" in out
    assert not err
    assert main(["benchmark", "compare", old, slow]) == 1
    out, err = capsys.readouterr()
    assert "slower" in out
    assert err == "jaxcnn: performance regressions: 1 of 1 cases. The verdict of these cases is slower or failed.\n"
    assert main(["benchmark", "compare", old, slow, "--json"]) == 1
    (told,) = json.loads(capsys.readouterr().out)
    assert told["ratio"] == pytest.approx(1.2, rel=0.1)
    assert told["verdict"] == "slower"
