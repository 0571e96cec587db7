"""Peers: they run the same network, take turns, and one that is missing is a row that says so."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxcnn
from benchmarks.peers import libraries
from benchmarks.peers.__main__ import DEFAULT_BATCH, image_shape, main
from benchmarks.peers.comparison import check_same_network
from benchmarks.peers.ours import VARIANTS
from benchmarks.peers.result_tables import to_markdown
from benchmarks.peers.turns import PeerError, alternate

FOLDER = Path(libraries.__file__).parent


@pytest.fixture
def flax_peer(monkeypatch):
    """The module of plain Flax, as its own process imports it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import flax_linen  # pyright: ignore[reportMissingImports]

    yield flax_linen
    for name in ("flax_linen", "task"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "name",
    ["lenet5", "resnet20_cifar", "resnet18", "resnet18_small_stem", "resnet50", "vgg16", "densenet121", "googlenet_bn"],
)
def test_plain_flax_has_our_parameters_and_our_shapes(name, flax_peer):
    shape = image_shape(name)
    theirs = flax_peer.network({"model": name, "dtype": "float32"})

    def shapes(model):
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        variables = jax.eval_shape(lambda: model.init(keys, jnp.zeros((1, *shape)), train=True))
        return sorted(x.shape for x in jax.tree.leaves(variables["params"]))

    ours, options = VARIANTS.get(name, (name, {}))
    assert shapes(theirs) == shapes(jaxcnn.create_model(ours, **options))


def test_models_of_torch_alone_are_ours_and_refused_by_the_others(flax_peer):
    for name in flax_peer.common.TORCH_MODELS:
        assert name in jaxcnn.list_models()
        assert DEFAULT_BATCH[name] > 0
        with pytest.raises(NotImplementedError, match=name):
            flax_peer.network({"model": name, "dtype": "float32"})


@pytest.mark.slow
def test_a_missing_library_is_a_row_and_the_others_run(tmp_path, capsys):
    assert not libraries._has(sys.executable, libraries.Peer("x", "x", ("no_such_library",)))
    flags = ["--models", "lenet5", "--batch-size", "2", "--peers", "jaxcnn,flax,keras", "--rounds", "2"]
    more = ["--seconds", "0.01", "--no-install", "--environments", str(tmp_path / "none"), "--out", str(tmp_path)]
    assert main([*flags, *more]) == 0
    rows = {row["peer"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert rows["keras"]["error"].startswith("not installed")
    for name in ("jaxcnn", "flax"):
        assert rows[name]["error"] is None
        assert rows[name]["params"] == 61_706
        assert len(rows[name]["samples_ms"]) == 2
        assert 0.5 < rows[name]["first_loss"] < 10
    assert rows["jaxcnn"]["ratio"] == 1.0
    assert rows["flax"]["ratio_low"] <= rows["flax"]["ratio"] <= rows["flax"]["ratio_high"]
    assert "not installed" in capsys.readouterr().out


def test_a_different_network_is_refused():
    rows = {"jaxcnn": {"params": 100, "error": None}, "torch": {"params": 101, "error": None}}
    check_same_network(rows)
    assert rows["jaxcnn"]["error"] is None
    assert rows["torch"]["error"] == "different network: 101 parameters instead of 100"


class Scripted:
    """A peer that takes its turns from a list."""

    def __init__(self, log, name, times):
        self.log, self.name, self.times = log, name, iter(times)

    def take(self, steps, timeout):
        self.log.append((self.name, steps))
        taken = next(self.times)
        if isinstance(taken, Exception):
            raise taken
        return taken


def test_peers_alternate_in_both_directions_and_one_that_fails_leaves():
    log = []
    turns = {"a": Scripted(log, "a", [0.1] * 3), "b": Scripted(log, "b", [0.2, PeerError("gone")])}
    said = list(alternate(turns, {"a": 0.1, "b": 10.0}, rounds=3, seconds=1.0, timeout=9.0))
    assert [name for name, _ in log] == ["a", "b", "b", "a", "a"]
    assert [steps for _, steps in log] == [10, 1, 1, 10, 10]
    assert [str(taken) for number, name, taken in said if name == "b"] == ["0.2", "gone"]


def test_a_table_says_ratios_and_failures():
    task = {"model": "lenet5", "batch_size": 2, "dtype": "float32", "image_shape": (28, 28, 1), "device_kind": "x"}
    ran = {"step_ms": 5.0, "images_per_second": 400.0, "compile_seconds": 1.0, "versions": "v", "error": None}
    rows = [
        {**task, **ran, "peer": "jaxcnn", "ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0},
        {**task, "peer": "keras", "error": "not installed: x"},
    ]
    text = to_markdown(rows)
    assert "| jaxcnn | 5.0 | 400 | 1.00 | 1.00-1.00 | 1.0 | v |" in text
    assert "| keras | | | | | | not installed: x |" in text


def test_unknown_names_are_refused(capsys):
    for flags in (["--peers", "tensorflow"], ["--models", "resnet34"]):
        with pytest.raises(SystemExit) as exit:
            main(flags)
        assert exit.value.code == 2
        assert "unknown" in capsys.readouterr().err
