"""Mistakes of users are one line, for each kind of data: what is wrong, its value, and what to do."""

import csv
import dataclasses
import itertools
import shutil
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import from_arrays, from_batches, from_folder, from_source, from_table, open_dataset
from jaxcnn.errors import UsageError
from jaxcnn.layers import Dense, Flatten, Sequential
from jaxcnn.train import Config, find_learning_rate, fit

NAMES = ("cat", "dog", "owl")
MODEL = Sequential([Flatten(), Dense(3)])


def examples(count, seed=0):
    """Return images uint8 `[N, 8, 8, 3]` and labels of three classes."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return images, np.arange(count) % 3


@dataclasses.dataclass(frozen=True)
class Data:
    """Images and labels of both splits, which each kind of source brings to `fit` in its own way."""

    train: tuple[Any, Any] = dataclasses.field(default_factory=lambda: examples(24))
    test: tuple[Any, Any] = dataclasses.field(default_factory=lambda: examples(11, seed=1))


def arrays(data, folder):
    return from_arrays(data.train, data.test, class_names=NAMES)


def source(data, folder):
    train, test = ([*zip(*part, strict=True)] for part in (data.train, data.test))
    return from_source(train, test, class_names=NAMES)


def npz(data, folder):
    (x_train, y_train), (x_test, y_test) = data.train, data.test
    np.savez(folder / "data.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, class_names=NAMES)
    return open_dataset(f"npz:{folder}/data.npz")


def batches(data, folder):
    def make(images, labels):
        return lambda: ((images[i : i + 5], np.asarray(labels[i : i + 5])) for i in range(0, len(images), 5))

    return from_batches(make(*data.train), make(*data.test), examples=24, class_names=NAMES)


def rows(data, folder):
    """Write the images as files, and return the rows of a table of them."""
    shutil.rmtree(folder / "images", ignore_errors=True)
    (folder / "images").mkdir()
    written = [("path", "label", "split")]
    for split in ("train", "test"):
        for number, (image, label) in enumerate(zip(*getattr(data, split), strict=True)):
            Image.fromarray(image).save(folder / "images" / f"{split}{number}.png")
            written.append((f"images/{split}{number}.png", label, split))
    return written


def table(data, folder):
    written = rows(data, folder)
    columns = dict(zip(written[0], map(list, zip(*written[1:], strict=True)), strict=True))
    return from_table(columns, root=folder, class_names=NAMES, data_dir=folder / "prepared")


def csv_file(data, folder):
    with (folder / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows(data, folder))
    return open_dataset(f"csv:{folder}/data.csv", folder / "prepared")


def folders(data, folder):
    shutil.rmtree(folder / "tree", ignore_errors=True)
    for split in ("train", "test"):
        for name in NAMES:
            (folder / "tree" / split / name).mkdir(parents=True)
        for number, (image, label) in enumerate(zip(*getattr(data, split), strict=True)):
            Image.fromarray(image).save(folder / "tree" / split / NAMES[label] / f"{number}.png")
    return from_folder(folder / "tree", data_dir=folder / "prepared")


ALL = (arrays, source, npz, batches, table, csv_file, folders)
IN_MEMORY = (arrays, source, npz, batches)


def config(folder, **changes):
    return Config(**{"workdir": str(folder / "run"), "batch_size": 8, "steps": 6, "progress": False, **changes})


def refusal(call):
    """Return the message of the mistake, which is one line and ends as a sentence."""
    with pytest.raises(UsageError) as caught:
        call()
    said = str(caught.value)
    assert said
    assert said.isprintable()
    assert "Traceback" not in said
    return said


def trained(make, data, folder, **changes):
    return fit(config(folder, **changes), data=make(data, folder), model=MODEL)


def wrong(split="train", images=lambda x: x, labels=lambda y: y):
    """Return data of which the images or labels of a split are changed."""
    x, y = getattr(Data(), split)
    return dataclasses.replace(Data(), **{split: (images(x), labels(y))})


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


def floats(images):
    return images.astype(np.float32) / 255


MISTAKES = {
    "flat images": (IN_MEMORY, wrong(images=lambda x: x.reshape(len(x), -1)), "192]|192)"),
    "other shape in the test split": (
        (arrays, npz, batches),
        wrong("test", images=lambda x: x[:, :, :5]),
        "[8, 5, 3]|(8, 5, 3)",
    ),
    "label out of range": (
        (arrays, source, npz, batches, table),
        wrong(labels=lambda y: changed(y, 7, 9)),
        "out of range|not in",
    ),
    "negative label": ((arrays, source, npz, batches, table), wrong(labels=lambda y: changed(y, 3, -1)), "-1"),
    "test label out of range": (
        (arrays, source, npz, batches, table),
        wrong("test", labels=lambda y: changed(y, 7, 9)),
        "9",
    ),
    "class missing from train": (
        (arrays, source, npz, table, csv_file, folders),
        wrong(labels=lambda y: y % 2),
        "no training|owl|'2'",
    ),
    "empty test split": (
        ALL,
        wrong("test", lambda x: x[:0], lambda y: y[:0]),
        "test split|test source|split test|test images|test iterator",
    ),
    "empty training split": (ALL, wrong("train", lambda x: x[:0], lambda y: y[:0]), "training|split train|/train/"),
    "images of two sizes": (
        (source, table, csv_file, folders),
        wrong("test", images=lambda x: [*x[:10], x[10][:5]]),
        "--image-size",
    ),
    "batches of two sizes": (
        (batches,),
        wrong("train", images=lambda x: [*x[:23], x[23][:5]]),
        "one size|not an array",
    ),
    "images of two sizes in an array": ((arrays,), wrong(images=lambda x: [*x[:23], x[23][:5]]), "from_source"),
    "NaN pixels": (IN_MEMORY, wrong(images=lambda x: changed(floats(x), (7, 0, 0, 0), np.nan)), "NaN"),
    "NaN test pixels": (
        IN_MEMORY,
        Data(
            (floats(examples(24)[0]), examples(24)[1]), (changed(floats(examples(11)[0]), 5, np.nan), examples(11)[1])
        ),
        "NaN",
    ),
}


@pytest.mark.parametrize(
    ("mistake", "make"),
    [
        pytest.param(name, make, id=f"{name}-{make.__name__}")
        for name, (kinds, *_) in MISTAKES.items()
        for make in kinds
    ],
)
def test_wrong_data_is_refused_in_one_line(mistake, make, tmp_path):
    _, data, says = MISTAKES[mistake]
    said = refusal(lambda: trained(make, data, tmp_path))
    assert any(part in said for part in says.split("|")), said


def shorter(count=23):
    return wrong(images=lambda x: x[:count], labels=lambda y: y[:count])


def other(split="train"):
    """Return data with other images of the same sizes, and other labels."""
    return dataclasses.replace(Data(), **{split: (examples(24, seed=9)[0], (np.arange(24) + 1) % 3)})


@pytest.mark.parametrize("make", [arrays, source, npz, table, csv_file, folders], ids=lambda make: make.__name__)
def test_a_run_is_not_resumed_with_data_of_another_length_or_other_data(make, tmp_path):
    trained(make, Data(), tmp_path)
    before = contents(tmp_path / "run")
    for data in (shorter(), other()):
        said = refusal(lambda data=data: trained(make, data, tmp_path, steps=12))
        assert "has changed" in said
        assert "--accept-changed-data" in said
        assert contents(tmp_path / "run") == before


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_is_not_resumed_with_another_kind_of_data(tmp_path):
    trained(arrays, Data(), tmp_path)
    for make in (source, table, batches):
        said = refusal(lambda make=make: trained(make, Data(), tmp_path, steps=12))
        assert "custom:arrays" in said
        assert "--workdir" in said
    assert "custom" not in refusal(lambda: fit(config(tmp_path, steps=12), model=MODEL)).split(".")[-1]


def test_a_stream_of_another_number_of_examples_is_refused_at_resume(tmp_path):
    trained(batches, Data(), tmp_path)
    train, test = Data().train, Data().test
    data = from_batches([train], [test], examples=12, class_names=NAMES)
    assert "has 12 images instead of 24" in refusal(lambda: fit(config(tmp_path, steps=12), data=data, model=MODEL))


class Growing(list):
    """A list that seems longer after some reads."""

    reads, most = 0, 10**9

    def __getitem__(self, index):
        type(self).reads += 1
        return super().__getitem__(index)

    def __len__(self):
        return super().__len__() + (self.reads > self.most)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_source_that_changes_its_length_while_it_is_read_is_refused(split, monkeypatch, tmp_path):
    monkeypatch.setattr("jaxcnn.data.sources.source.fits_memory", lambda *_: False)
    parts = {name: [*zip(*getattr(Data(), name), strict=True)] for name in ("train", "test")}

    class Source(Growing):
        most = 20 if split == "train" else 8  # of the reads that find out the sizes and labels

    parts[split] = Source(parts[split])
    said = refusal(lambda: fit(config(tmp_path), data=from_source(**parts, class_names=NAMES), model=MODEL))
    assert "changed its length" in said
    assert "instead of" in said


def test_a_stream_that_changes_its_length_while_it_runs_is_refused(tmp_path):
    lengths = itertools.chain([11], itertools.repeat(10))

    def test():
        images, labels = Data().test
        count = next(lengths)
        yield images[:count], labels[:count]

    data = from_batches([Data().train], test, examples=24, class_names=NAMES)
    said = refusal(lambda: fit(config(tmp_path, steps=9), data=data, model=MODEL))
    assert said.startswith("the test iterator changes length: 10 examples, not 11")


@pytest.mark.parametrize("count", [20, 23])
def test_a_generator_that_ends_early_is_refused(count, tmp_path):
    images, labels = Data().train
    data = from_batches(lambda: iter([(images[:count], labels[:count])]), [Data().test], examples=24, class_names=NAMES)
    said = refusal(lambda: fit(config(tmp_path), data=data, model=MODEL))
    assert said.startswith(f"the training iterator ended after {count} examples, but examples is 24")


def test_a_generator_that_ends_before_the_saved_step_is_refused(tmp_path):
    trained(batches, Data(), tmp_path, steps=5)  # 40 of 48 examples of two epochs
    images, labels = Data().train
    data = from_batches(lambda: iter([(images[:12], labels[:12])]), [Data().test], examples=24, class_names=NAMES)
    said = refusal(lambda: fit(config(tmp_path, steps=7), data=data, model=MODEL))
    assert "ended after 12 examples" in said


@pytest.mark.parametrize("use", [fit, find_learning_rate])
def test_data_that_is_given_twice_or_is_no_dataset_is_refused(use, tmp_path):
    data = arrays(Data(), tmp_path)
    said = refusal(lambda: use(config(tmp_path, dataset="mnist", steps=None), data=data, model=MODEL))
    assert said.startswith("data and the dataset 'mnist' are mutually exclusive")
    said = refusal(lambda: use(config(tmp_path, steps=None), data=data.decoded("train"), model=MODEL))
    assert said.startswith("data must be a dataset, got dict. Make a dataset with jaxcnn.data.from_arrays")


def test_what_a_stream_cannot_do_is_refused(tmp_path):
    for changes in ({"sampling": "balanced"}, {"class_weights": "balanced"}, {"validation": 0.2}, {"image_size": 16}):
        said = refusal(lambda changes=changes: trained(batches, Data(), tmp_path, **changes))
        assert "from_batches" in said or "stream" in said
    assert not (tmp_path / "run").exists()


def test_jax_arrays_are_refused_as_numpy_arrays_are():
    images, labels = examples(24)
    nan = jnp.asarray(floats(images)).at[7, 0].set(jnp.nan)
    assert "NaN" in refusal(lambda: from_arrays((nan, labels), (nan, labels)))
