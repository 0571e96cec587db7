"""Which examples each of up to 256 processes gets: each example once, in the order of one process."""

import itertools

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import from_arrays, from_folder, from_source, open_pipeline
from jaxcnn.data.pipeline import batch_indices, rows_of
from jaxcnn.train.evaluation.batches import evaluation_batches
from jaxcnn.train.runtime.preprocessing import Preprocessing

BATCH, EXAMPLES, TESTED, SIDE = 512, 700, 391, 4
COUNTS = [4, 8, 64, 256]
PLACES = ["arrays in memory", "arrays on the disk", "source", "folder in memory", "folder on the disk"]


class Rows:
    """A source with random access."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": self.labels[index]}


def numbered(count):
    """Images whose first two pixels are their number, and labels of two classes."""
    images = np.zeros((count, SIDE, SIDE, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(count) % 256, np.arange(count) // 256
    return images, (np.arange(count) % 2).astype(np.int32)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """For each kind of data the dataset, and where its training images are kept."""
    train, test = numbered(EXAMPLES), numbered(TESTED)
    path = tmp_path_factory.mktemp("folder")
    for split, (images, labels) in (("train", train), ("test", test)):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = path / "images" / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(folder / f"{index:04}.png")
    arrays = from_arrays(train, test=test)
    folder = from_folder(path / "images", data_dir=path / "prepared")
    source = from_source(Rows(*train), test=Rows(*test))
    kinds = [(arrays, "memory"), (arrays, "disk"), (source, "disk"), (folder, "memory"), (folder, "disk")]
    return dict(zip(PLACES, kinds, strict=True))


def numbers(images):
    return images[:, 0, 0, 0].astype(int) + 256 * images[:, 0, 1, 0].astype(int)


def open_part(datasets, place, share, seed=3):
    dataset, residence = datasets[place]
    return open_pipeline(dataset, BATCH, seed, residence=residence, share=share, workers=1)


def take(pipeline, first_step, count):
    batches = pipeline.batches(first_step)
    return [(numbers(batch["image"]), batch["label"]) for batch in itertools.islice(batches, count)]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("processes", [4, 8, 64, pytest.param(256, marks=pytest.mark.slow)])
def test_processes_share_the_batches_of_one_process_and_go_on_in_the_middle_of_an_epoch(datasets, place, processes):
    alone = take(open_part(datasets, place, (0, 1)), 0, 3)
    order = np.concatenate([seen for seen, _ in alone])
    for epoch in range(2):
        seen = order[epoch * EXAMPLES : (epoch + 1) * EXAMPLES]
        assert len({*seen.tolist()}) == len(seen)
    assert {*order[:EXAMPLES].tolist()} == {*range(EXAMPLES)}
    parts = [take(open_part(datasets, place, (part, processes)), 0, 3) for part in range(processes)]
    assert {len(seen) for part in parts for seen, _ in part} == {BATCH // processes}
    # Step 1 begins in the first epoch and ends in the second one.
    resumed = [take(open_part(datasets, place, (part, processes)), 1, 2) for part in range(processes)]
    for step, (seen, labels) in enumerate(alone):
        np.testing.assert_array_equal(np.concatenate([part[step][0] for part in parts]), seen)
        np.testing.assert_array_equal(np.concatenate([part[step][1] for part in parts]), labels)
        if step:
            np.testing.assert_array_equal(np.concatenate([part[step - 1][0] for part in resumed]), seen)


@pytest.mark.parametrize("processes", COUNTS)
@pytest.mark.parametrize("examples", [1, BATCH, 5003])
def test_every_epoch_is_divided_without_a_gap_or_an_overlap(examples, processes):
    steps = -(-4 * examples // BATCH) + 1
    whole = [batch_indices(step, examples=examples, batch_size=BATCH, seed=9) for step in range(steps)]
    rows = [rows_of((part, processes), BATCH) for part in range(processes)]
    assert [part.start for part in rows] == [0, *(part.stop for part in rows[:-1])]
    assert rows[-1].stop == BATCH
    order = np.concatenate([batch[part] for batch in whole for part in rows])
    for epoch in range(4):
        np.testing.assert_array_equal(np.sort(order[epoch * examples : (epoch + 1) * examples]), np.arange(examples))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("processes", [4, 64, pytest.param(256, marks=pytest.mark.slow)])
def test_processes_share_the_evaluation(datasets, place, processes):
    # Most processes have no example in the second batch, and some have one row of padding beside one example.
    dataset, _ = datasets[place]
    preprocessing = Preprocessing(image_shape=(SIDE, SIDE, 1), mean=(0.5,), std=(0.5,), class_names=dataset.class_names)
    alone = numbers(dataset.decoded("test", preprocessing.geometry)["image"])
    assert {*alone.tolist()} == {*range(TESTED)}
    batch_size = 256
    for make in (
        lambda share: open_part(datasets, place, share).evaluation_batches(batch_size),
        lambda share: evaluation_batches(dataset, preprocessing, batch_size, share),
    ):
        parts = [[*make((part, processes))] for part in range(processes)]
        assert {len(part) for part in parts} == {2}
        padded = [padded for step in range(2) for padded in (part[step] for part in parts)]
        assert {len(padded.mask) for padded in padded} == {batch_size // processes}
        seen = np.concatenate([numbers(padded.batch["image"])[padded.mask] for padded in padded])
        np.testing.assert_array_equal(seen, alone)
