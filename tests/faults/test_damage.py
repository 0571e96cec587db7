"""No damage to a checkpoint's files gives a state that is silently wrong."""

import dataclasses
import json
import logging
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from worker import fingerprint

from jaxcnn.errors import UsageError
from jaxcnn.train import fit
from jaxcnn.train.runtime import integrity
from jaxcnn.train.runtime.checkpoint import Checkpoints, DamagedError
from jaxcnn.train.runtime.plan import make_plan

FLIPS = 200


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A finished run with checkpoints of steps 4 and 5, its template, and what both hold."""
    workdir = tmp_path_factory.mktemp("run")
    config = dataclasses.replace(tiny, steps=5, workdir=str(workdir))
    fit(config)
    template = make_plan(config).template
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return config, workdir, template, {step: content(checkpoints.restore(step, template)) for step in (4, 5)}


def content(restored):
    state, meta = restored
    return fingerprint(state), json.dumps(meta)


def newest(workdir, template, caplog):
    """What comes back, which step it is of, and what is said about it."""
    caplog.clear()
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        found = checkpoints.restore_newest(template)
    return content(found), int(found[0].step), [record.getMessage() for record in caplog.records]


def damages(contents, chance, flips):
    yield "removed", None
    yield "empty", b""
    yield "cut in half", contents[: len(contents) // 2]
    yield "one byte short", contents[:-1]
    for _ in range(flips):
        bit = chance.randrange(8 * len(contents))
        flipped = bytearray(contents)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", bytes(flipped)


@pytest.mark.slow
def test_every_file_removed_cut_off_and_with_flipped_bits(run, caplog):
    _, workdir, template, saved = run
    chance = random.Random(0)
    files = sorted(path for path in (workdir / "checkpoints" / "5").rglob("*") if path.is_file())
    flipped, went_back = 0, set()
    for path in files:
        contents = path.read_bytes()
        # More of them where most of the bytes are.
        flips = -(-FLIPS // len(files)) + (20 if len(contents) > 10_000 else 0)
        for what, damaged in damages(contents, chance, flips):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            flipped += what.startswith("bit")
            got, step, said = newest(workdir, template, caplog)
            assert got == saved[step], f"{path}, {what}: silently wrong"
            if step == 5:
                assert said == [], (path, what, said)
            else:
                went_back.add(path)
                assert len(said) == 1, (path, what, said)
                assert len(said[0].splitlines()) == 1
                assert "5 is damaged: " in said[0], (path, what)
                assert said[0].endswith("; returning to step 4")
            path.write_bytes(contents)
    assert flipped >= FLIPS
    assert len(went_back) >= 4  # the damage was where it matters


def test_without_checksums_flipped_bits_would_be_silently_wrong(run, caplog, monkeypatch):
    _, workdir, template, saved = run
    monkeypatch.setattr(integrity, "damaged_leaf", lambda saved, state: None)
    path = max((path for path in (workdir / "checkpoints" / "5").rglob("*") if path.is_file()), key=file_size)
    contents = path.read_bytes()
    wrong = 0
    for position in range(2000, 2005):
        path.write_bytes(contents[:position] + bytes([contents[position] ^ 1]) + contents[position + 1 :])
        try:
            wrong += newest(workdir, template, caplog)[0] not in saved.values()
        finally:
            path.write_bytes(contents)
    assert wrong >= 3


def file_size(path):
    return path.stat().st_size


def test_a_run_goes_on_from_the_newest_sound_checkpoint_and_puts_the_damaged_one_aside(run, tmp_path, caplog):
    config, workdir, _, _ = run
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "5" / "meta" / "metadata").write_text("{}")
    (tmp_path / "run" / "result.json").unlink()
    again = fit(dataclasses.replace(config, workdir=str(tmp_path / "run")))
    assert fingerprint(again.state) == run[3][5][0]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"checkpoint {tmp_path}/run/checkpoints/5 is damaged: the description of the checkpoint has no checksum; "
        "returning to step 4"
    ]
    assert (tmp_path / "run" / "damaged_checkpoints" / "5" / "meta" / "metadata").read_text() == "{}"
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == (workdir / "metrics.jsonl").read_text()


def test_when_all_are_damaged_one_line_says_so_and_nothing_is_touched(run, tmp_path):
    config, workdir, _, _ = run
    shutil.copytree(workdir, tmp_path / "run")
    for step in (4, 5):
        (tmp_path / "run" / "checkpoints" / f"{step}" / "state" / "manifest.ocdbt").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"no checkpoint can be restored: .*5 is damaged.*4 is damaged") as caught:
        fit(dataclasses.replace(config, workdir=str(tmp_path / "run")))
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def change(tree, name, new):
    """The tree with another leaf of this name."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: new(leaf) if jax.tree_util.keystr(path, simple=True, separator="/") == name else leaf, tree
    )


KERNEL = "params/Conv_0/kernel"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (
            lambda state: change(state, KERNEL, lambda leaf: jax.ShapeDtypeStruct((5, 5, 1, 4), leaf.dtype)),
            rf"{KERNEL} has shape \[3, 3, 1, 4\] in the checkpoint, not \[5, 5, 1, 4\]",
        ),
        (
            lambda state: change(state, KERNEL, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16)),
            f"{KERNEL} has dtype float32 in the checkpoint, not bfloat16",
        ),
        (
            lambda state: dataclasses.replace(state, params={**state.params, "Head": state.step}),
            "the checkpoint has no params/Head, which the configuration of this run needs",
        ),
        (
            lambda state: dataclasses.replace(state, batch_stats={}),
            "the checkpoint has batch_stats/BatchNorm_0/mean, which the configuration of this run does not use",
        ),
    ],
    ids=["shape", "dtype", "missing", "unknown"],
)
def test_a_state_of_another_form_is_refused_by_its_leaf(run, template, says):
    _, workdir, right, _ = run
    with (
        Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints,
        pytest.raises(UsageError, match=f"5 belongs to another model or optimizer: {says}"),
    ):
        checkpoints.restore_newest(template(right))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint32", "bool", "float8_e4m3fn"])
def test_a_changed_bit_is_noticed_in_every_dtype(dtype):
    leaf = np.asarray(jnp.ones((3, 2), dtype))
    saved = integrity.manifest({"a": {"b": leaf}})
    assert integrity.damaged_leaf(saved, {"a": {"b": leaf}}) is None
    for bit in range(0, 8 * leaf.nbytes, 3):
        damaged = leaf.copy()
        damaged.view(np.uint8).reshape(-1)[bit // 8] ^= 1 << bit % 8
        assert integrity.damaged_leaf(saved, {"a": {"b": damaged}}) == "a/b"


def test_a_damaged_checkpoint_asked_for_by_its_step_is_an_error(run):
    _, workdir, template, _ = run
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints, pytest.raises(DamagedError):
        checkpoints.restore(77, template)


def test_a_config_of_another_run_is_named_even_if_little_else_is_there(run, tmp_path):
    config, workdir, _, _ = run
    copy, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(workdir, copy)
    fit(dataclasses.replace(config, seed=config.seed + 1, workdir=str(other)))
    shutil.copy(other / "config.json", copy)
    (copy / "preprocessing.json").unlink()
    with pytest.raises(UsageError, match=r"data\.json belongs to another run than config\.json in the same folder"):
        fit(dataclasses.replace(config, workdir=str(copy)))
    with pytest.raises(UsageError, match="holds another run"):
        fit(dataclasses.replace(config, workdir=str(other)))
