"""Text files of a run show their own damage, and whether they are of this run."""

import dataclasses
import json

import pytest

from jaxcnn.errors import UsageError
from jaxcnn.train.config import Config
from jaxcnn.train.runtime import data_identity, preprocessing, workdir
from jaxcnn.train.runtime.preprocessing import PREPROCESSING, Preprocessing

AROUND = Preprocessing((28, 28, 1), (0.286,), (0.353,), ("shirt", "shoe"))


def begun(folder, **fields):
    """Return a run directory without steps, and its configuration."""
    config = Config(workdir=str(folder), **fields)
    with workdir.claim(config) as claimed:
        preprocessing.write(claimed, AROUND)
    return claimed, config


@pytest.fixture
def run(tmp_path):
    return begun(tmp_path / "run")


def claim(config):
    with workdir.claim(config):
        pass


def edit(path, change):
    path.write_text(change(path.read_text()))


def test_a_file_comes_back_as_it_was_written(run):
    folder, config = run
    assert preprocessing.read(folder) == AROUND
    assert workdir.read_config(folder) == config
    assert workdir.read_sealed(folder / PREPROCESSING).is_checked
    claim(config)


@pytest.mark.parametrize(
    ("old", "new"), [('"tta": "none"', '"tta": "flip"'), ('"tta"', '"ttb"'), ('"sha256": "', '"sha256": "0')]
)
def test_a_changed_configuration_is_damaged_and_not_another_run(run, old, new):
    folder, config = run
    edit(folder / "config.json", lambda text: text.replace(old, new))
    said = r'config\.json is damaged or was edited: .*To accept an edit, remove the line "sha256"'
    for read in (lambda: workdir.read_config(folder), lambda: claim(config)):
        with pytest.raises(UsageError, match=said) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_changed_number_of_the_preprocessing_is_noticed(run):
    folder, _ = run
    edit(folder / PREPROCESSING, lambda text: text.replace("0.286", "0.686"))
    with pytest.raises(UsageError, match=rf"{PREPROCESSING} is damaged or was edited: .*Restore the file, or"):
        preprocessing.read(folder)


def without_checksum(text):
    return "".join(line for line in text.splitlines(keepends=True) if '"sha256"' not in line)


def test_an_edit_on_purpose_is_accepted_by_removing_one_line_and_is_reported_as_unchecked(run):
    folder, config = run
    edit(folder / PREPROCESSING, lambda text: without_checksum(text.replace("0.286", "0.5")))
    assert preprocessing.read(folder).mean == (0.5,)
    note = workdir.note_on_unchecked(folder, [workdir.CONFIG, PREPROCESSING])
    assert note.startswith(f"{PREPROCESSING} in {folder} cannot be checked")
    edit(folder / "config.json", lambda text: without_checksum(text.replace('"seed": 0', '"seed": 7')))
    changed = dataclasses.replace(config, seed=7)
    claim(changed)
    with pytest.raises(UsageError, match=r"holds another run .*seed: 7 -> 0"):
        claim(config)
    workdir.write_config(folder, changed)  # as a resumed run does
    assert workdir.read_sealed(folder / "config.json").is_checked
    assert preprocessing.read(folder).mean == (0.5,)  # the identity of the run is as it was


@pytest.mark.parametrize("name", ["config.json", PREPROCESSING])
@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[1]", "3", "{}", "[" * 100_000, '{"a":' * 100_000, "\xff"],
    ids=["nothing", "cut off", "null", "list", "number", "empty", "deep lists", "deep objects", "not UTF-8"],
)
def test_a_file_with_other_content_is_one_line_that_names_it(run, name, text):
    folder, config = run
    (folder / name).write_bytes(text.encode("latin-1"))
    reads = {"config.json": lambda: workdir.read_config(folder), PREPROCESSING: lambda: preprocessing.read(folder)}
    reads = [reads[name]] + ([lambda: claim(config)] if name == "config.json" else [])
    for read in reads:
        with pytest.raises(UsageError, match=rf"{name} is damaged: .*Restore the file") as caught:
            read()
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["config.json", PREPROCESSING])
def test_a_folder_in_place_of_a_file_is_one_line(run, name):
    folder, _ = run
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(UsageError, match=rf"{name} cannot be read: Is a directory. Restore the file"):
        workdir.read_sealed(folder / name)


def test_a_file_of_another_run_is_refused(run, tmp_path):
    folder, _ = run
    other, _ = begun(tmp_path / "other", seed=1)
    (folder / PREPROCESSING).write_text((other / PREPROCESSING).read_text())
    with pytest.raises(UsageError, match=rf"{PREPROCESSING} belongs to another run than config"):
        preprocessing.read(folder)


def test_equal_runs_have_one_identity_and_a_run_keeps_it_when_it_gets_more_steps(run, tmp_path):
    folder, config = run
    equal, _ = begun(tmp_path / "equal", log_every=3, parallel="jit")
    longer, _ = begun(tmp_path / "longer", epochs=40.0)
    assert workdir.run_of(folder) == workdir.run_of(equal) != workdir.run_of(longer)
    before = workdir.run_of(folder)
    workdir.write_config(folder, dataclasses.replace(config, epochs=40.0))
    assert workdir.run_of(folder) == before


def test_the_way_steps_are_distributed_may_change(run):
    _, config = run
    claim(dataclasses.replace(config, parallel="jit", shard_state=True))
    with pytest.raises(UsageError, match="seed: 0 -> 1"):
        claim(dataclasses.replace(config, parallel="jit", seed=1))


def test_a_run_without_its_configuration_is_named(run):
    folder, config = run
    (folder / "config.json").unlink()
    (folder / "metrics.jsonl").touch()
    with pytest.raises(UsageError, match=r"config\.json is missing\. Restore the file"):
        claim(config)


def test_a_damaged_identity_of_the_data_can_be_accepted(run):
    folder, _ = run
    found = {"classes": ["a"], "splits": ["train"], "parts": {}}
    data_identity.write(folder, found)
    edit(folder / "data.json", lambda text: text.replace('"a"', '"b"'))
    with pytest.raises(UsageError, match=r"data\.json is damaged or was edited.*--accept-changed-data"):
        data_identity.check(folder, found, accept=False)
    assert "Continuing with the changed data" in data_identity.check(folder, found, accept=True)
    data_identity.write(folder, found)
    assert data_identity.check(folder, found, accept=False) is None


def test_a_sealed_file_is_readable_json(run):
    folder, config = run
    values = json.loads((folder / "config.json").read_text())
    assert list(values)[:2] == ["sha256", "run"]
    assert values["model"] == config.model
