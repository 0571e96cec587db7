"""Options of models that change how a step is computed: `remat` and `scan_blocks`, in a run."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxcnn.aot import Images
from jaxcnn.aot.program import lower, plan_of
from jaxcnn.data import from_arrays
from jaxcnn.errors import UsageError
from jaxcnn.train import Config, ScheduleConfig, fit
from jaxcnn.train.config import differences, to_dict

SMALL = ("stage_sizes=(4,)", "width=4")
CONFIG = Config(
    model="resnet20_cifar",
    model_options=SMALL,
    batch_size=8,
    steps=3,
    augment=(),
    schedule=ScheduleConfig("constant"),
    progress=False,
)
DATA = from_arrays(
    train=(np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), np.uint8), np.arange(32) % 10),
    test=(np.random.default_rng(1).integers(0, 256, (16, 8, 8, 3), np.uint8), np.arange(16) % 10),
)

pytestmark = pytest.mark.usefixtures("compile_quickly")


def with_options(config, *options, **changed):
    return dataclasses.replace(config, model_options=(*SMALL, *options), **changed)


def assert_close(a, b):
    for x, y in zip(jax.tree.leaves(a.state.params), jax.tree.leaves(b.state.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


def test_what_changes_only_the_computation_is_no_part_of_the_run():
    plain = to_dict(CONFIG)
    for options in (["scan_blocks=True"], ["remat=8GB"], ["remat=(1,)", "memory_efficient=True"]):
        assert differences(plain, to_dict(with_options(CONFIG, *options))) == []
    (difference,) = differences(plain, to_dict(with_options(CONFIG, "remat=True", "stem=imagenet")))
    assert difference.startswith("model_options: ")
    assert "stem=imagenet" in difference
    assert "remat" not in difference


@pytest.mark.slow
def test_a_run_resumes_with_and_without_loops(tmp_path):
    def run(name, *options, steps):
        return fit(with_options(CONFIG, *options, steps=steps, workdir=str(tmp_path / name)), data=DATA)

    whole = run("whole", steps=3)
    run("parts", "scan_blocks=True", steps=1)
    run("parts", steps=2)
    resumed = run("parts", "scan_blocks=True", "remat=True", steps=3)
    assert int(resumed.state.step) == 3
    assert_close(resumed, whole)


@pytest.mark.slow
def test_frozen_layers_within_a_stage_of_equal_blocks(tmp_path):
    def run(name, *options):
        frozen = with_options(CONFIG, *options, freeze="stem|stage1_block[12]", workdir=str(tmp_path / name))
        return fit(frozen, data=DATA)

    plain, scanned = run("plain"), run("scanned", "scan_blocks=True")
    assert_close(scanned, plain)
    # Frozen batch normalization uses its running statistics, which stay.
    statistics = scanned.state.batch_stats
    assert np.all(np.asarray(statistics["stage1_block2"]["norm1"]["mean"]) == 0)
    assert np.any(np.asarray(statistics["stage1_block3"]["norm1"]["mean"]) != 0)


@pytest.mark.parametrize("parallel", ["shard_map", "jit"])
def test_loops_and_sizes_of_activations_with_a_batch_on_two_devices(parallel):
    config = with_options(CONFIG, "scan_blocks=True", "remat=1.1MB", parallel=parallel)
    images = Images((32, 32, 3), (32, 32), 10)
    assert "stablehlo.while" in lower(plan_of(config, images, jax.devices()[:2])).as_text()
    # In shard_map, the size applies to the four images of a device; in jit, to all eight.
    least = "508.5KB" if parallel == "shard_map" else "1.02MB"
    with pytest.raises(UsageError, match=f"^remat 1KB is too small: recomputing all 4 blocks needs {least}"):
        lower(plan_of(with_options(config, "remat=1KB"), images, jax.devices()[:2]))
