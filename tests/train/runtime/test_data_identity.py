"""Runs whose data changes: classes follow names, and a resumed run says what has changed."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import from_arrays
from jaxcnn.errors import UsageError
from jaxcnn.train import Config, OptimizerConfig, evaluate, fit
from jaxcnn.train.runtime import data_identity, sealed, workdir
from jaxcnn.train.runtime.preprocessing import PREPROCESSING

pytestmark = pytest.mark.usefixtures("compile_quickly")

ARRAYS = (np.zeros((6, 4, 4), np.uint8), np.arange(6) % 2)

COLORS = {"blue": (0, 0, 230), "green": (0, 230, 0), "red": (230, 0, 0)}


def write_pictures(folder, name, count, color, first=0):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 25, (16, 16, 3)) + color
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run on pictures of three colors, all of which it knows."""
    folder = tmp_path_factory.mktemp("trained")
    for name, color in COLORS.items():
        write_pictures(folder / "pictures", name, 20, color)
    config = Config(
        dataset=f"imagefolder:{folder / 'pictures'}",
        data_dir=str(folder / "data"),
        steps=20,
        batch_size=16,
        augment=(),
        optimizer=OptimizerConfig("adam", 0.003),
        workdir=str(folder / "run"),
        progress=False,
    )
    assert fit(config).test_accuracy == 1.0
    return config


@pytest.fixture
def copied(trained, tmp_path):
    """The same run and its pictures in folders that a test may change."""
    pictures = shutil.copytree(trained.dataset.removeprefix("imagefolder:"), tmp_path / "pictures")
    run = shutil.copytree(trained.workdir, tmp_path / "run")
    values = json.loads((run / workdir.CONFIG).read_text())
    values |= {"dataset": f"imagefolder:{pictures}", "data_dir": str(tmp_path / "data")}
    del values["sha256"]
    (run / workdir.CONFIG).write_text(json.dumps(sealed.seal(values, values.pop("run"))))
    return dataclasses.replace(
        trained, dataset=f"imagefolder:{pictures}", data_dir=str(tmp_path / "data"), workdir=str(run)
    )


def pictures_of(config):
    return workdir.Path(config.dataset.removeprefix("imagefolder:"))


def run_of(config):
    return workdir.Path(config.workdir)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_same_pictures_in_another_place_are_the_same_data(copied):
    before = contents(run_of(copied))
    assert fit(copied).test_accuracy == 1.0
    assert contents(run_of(copied)) == before


def test_a_renamed_class_is_refused_by_name(copied):
    (pictures_of(copied) / "red").rename(pictures_of(copied) / "crimson")
    before = contents(run_of(copied))
    for use in (lambda: fit(copied), lambda: evaluate(run_of(copied))):
        with pytest.raises(UsageError, match="classes that the run does not have: 'crimson'"):
            use()
    assert contents(run_of(copied)) == before


def test_a_class_in_front_of_the_others_does_not_shift_them(copied):
    write_pictures(pictures_of(copied), "amber", 5, (230, 200, 0))
    with pytest.raises(UsageError, match="does not have: 'amber'"):
        evaluate(run_of(copied))


def test_classes_keep_their_position_when_others_are_gone(copied):
    shutil.rmtree(pictures_of(copied) / "blue")
    assert evaluate(run_of(copied))["test_accuracy"] == 1.0
    with pytest.raises(UsageError, match="the training images of class 'blue' is missing"):
        fit(copied)


def test_added_pictures_are_refused_and_accepted_on_purpose(copied):
    before = contents(run_of(copied))
    write_pictures(pictures_of(copied), "red", 10, COLORS["red"], first=20)
    with pytest.raises(UsageError, match="the training images of class 'red' has 24 images instead of 16") as error:
        fit(copied)
    assert "--accept-changed-data" in str(error.value)
    assert contents(run_of(copied)) == before
    assert fit(dataclasses.replace(copied, accept_changed_data=True)).test_accuracy == 1.0
    assert (run_of(copied) / PREPROCESSING).read_bytes() == before[PREPROCESSING]
    assert fit(copied).test_accuracy == 1.0  # the accepted data is that of the run from now on


def test_other_contents_are_found_on_request(copied):
    path = next((pictures_of(copied) / "red").iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF  # after the checksum of the last chunk's kind: the pixels are the same
    config = dataclasses.replace(copied, data_fingerprint="contents")
    fit(config)
    path.write_bytes(content)
    fit(copied)
    with pytest.raises(UsageError, match="images of class 'red' have other contents"):
        fit(config)


def test_a_run_whose_data_has_changed_does_not_get_more_steps(copied):
    before = contents(run_of(copied))
    write_pictures(pictures_of(copied), "red", 10, COLORS["red"], first=20)
    with pytest.raises(UsageError, match="has 24 images instead of 16"):
        fit(dataclasses.replace(copied, steps=22))
    assert contents(run_of(copied)) == before


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(copied):
    longer = fit(dataclasses.replace(copied, steps=22))
    assert int(longer.state.step) == longer.values["steps"] == 22
    with pytest.raises(UsageError, match="holds another run"):
        fit(copied)


def test_a_run_is_evaluated_from_any_directory(copied, tmp_path, monkeypatch):
    run = run_of(copied)
    shutil.rmtree(run)
    monkeypatch.chdir(tmp_path)
    fit(dataclasses.replace(copied, dataset="imagefolder:pictures", data_dir="data", steps=1))
    monkeypatch.chdir("/")
    assert evaluate(run)["test_examples"] == 12


def test_a_run_of_version_0_1_is_read(copied):
    """Its preprocessing has no geometry, its configuration no fields of it, no checksum, and nothing names its data."""
    run = run_of(copied)
    (run / data_identity.DATA).unlink()
    stored = json.loads((run / PREPROCESSING).read_text())
    old = {name: stored[name] for name in ("image_shape", "mean", "std", "class_names")}
    (run / PREPROCESSING).write_text(json.dumps(old))
    values = json.loads((run / workdir.CONFIG).read_text())
    later = ("resize", "crop_fraction", "background", "mean", "std", "skip_damaged", "train_split", "test_split")
    for name in (*later, sealed.SHA256, sealed.RUN):
        del values[name]
    (run / workdir.CONFIG).write_text(json.dumps(values))
    values = evaluate(run)
    assert values["test_accuracy"] == 1.0
    assert data_identity.OTHER_TEST_SET in values["notes"]
    assert fit(copied).test_accuracy == 1.0
    before = contents(run)
    longer = dataclasses.replace(copied, steps=21)
    with pytest.raises(UsageError, match="which chose other images of"):
        fit(longer)
    assert contents(run) == before
    assert fit(dataclasses.replace(longer, accept_changed_data=True)).values["steps"] == 21
    assert data_identity.OTHER_TEST_SET not in evaluate(run)["notes"]


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ((ARRAYS[0] + 1, ARRAYS[1]), ["the training array 'image' has other contents"]),
        ((ARRAYS[0], ARRAYS[1][::-1]), ["the training array 'label' has other contents"]),
        (
            (ARRAYS[0].repeat(2, 1), ARRAYS[1]),
            ["the training array 'image' has other shapes", "the test array 'image' has other shapes"],
        ),
        (
            (ARRAYS[0][:5], ARRAYS[1][:5]),
            [
                "the training array 'image' has 5 images instead of 6",
                "the training array 'label' has 5 images instead of 6",
            ],
        ),
        (ARRAYS, []),
    ],
)
def test_what_has_changed_in_arrays_is_named(train, said):
    test = ARRAYS if train[0].shape[1:] == (4, 4) else (train[0], train[1])
    before, after = from_arrays(ARRAYS, ARRAYS), from_arrays(train, test)
    config = Config()
    found = data_identity.identity(after, config)
    assert data_identity.differences(data_identity.identity(before, config), found) == said
