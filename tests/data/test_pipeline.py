"""Batches: every example once per epoch, in an order that depends on the seed and the step only."""

import itertools
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.data import open_dataset, open_pipeline
from jaxcnn.data.pipeline import READ_AHEAD, Pipeline, batch_indices, pad
from jaxcnn.errors import UsageError


@settings(deadline=None)
@given(examples=st.integers(1, 60), batch_size=st.integers(1, 60), seed=st.integers(0, 5), epochs=st.integers(1, 4))
def test_each_example_comes_once_per_epoch(examples, batch_size, seed, epochs):
    steps = -(-epochs * examples // batch_size)
    stream = np.concatenate(
        [batch_indices(step, examples=examples, batch_size=batch_size, seed=seed) for step in range(steps)]
    )
    for epoch in range(epochs):
        assert sorted(stream[epoch * examples : (epoch + 1) * examples]) == list(range(examples))


@given(step=st.integers(0, 1000))
def test_a_batch_is_a_function_of_seed_and_step(step):
    indices = [batch_indices(step, examples=50, batch_size=7, seed=seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(indices[0], indices[1])
    assert len(indices[0]) == 7


def test_seeds_and_epochs_have_different_orders():
    orders = [batch_indices(epoch, examples=50, batch_size=50, seed=seed) for seed in (0, 1) for epoch in (0, 1)]
    for a, b in itertools.combinations(orders, 2):
        assert not np.array_equal(a, b)


@pytest.mark.parametrize("batch_size", [0, -1, 98])
def test_an_impossible_batch_size_is_refused(grey, batch_size):
    with pytest.raises(UsageError, match=f"batch_size must be from 1 to the 97 training images, got {batch_size}"):
        open_pipeline(open_dataset("mnist", grey), batch_size)


def take(pipeline, first_step, count):
    return list(itertools.islice(pipeline.batches(first_step), count))


def assert_same_batches(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for mine, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("residence", ["device", "memory", "disk"])
def test_training_goes_on_from_any_step(grey, residence):
    dataset = open_dataset("mnist", grey)
    straight = take(open_pipeline(dataset, 16, seed=1, residence=residence, workers=2), 0, 10)
    later = take(open_pipeline(dataset, 16, seed=1, residence=residence, workers=2), 4, 6)
    assert_same_batches(later, straight[4:])
    images, labels = dataset.read("train")
    for step, batch in enumerate(straight):  # an image keeps its label
        indices = batch_indices(step, examples=97, batch_size=16, seed=1)
        np.testing.assert_array_equal(batch["image"], images[indices])
        np.testing.assert_array_equal(batch["label"], labels[indices])


@pytest.mark.parametrize("batch_size", [1, 7, 23, 40])
def test_evaluation_covers_every_example_in_order_in_full_batches(grey, batch_size):
    dataset = open_dataset("mnist", grey)
    batches = list(open_pipeline(dataset, 8).evaluation_batches(batch_size))
    assert all(len(batch["image"]) == len(batch["label"]) == len(mask) == batch_size for batch, mask in batches)
    for name, expected in zip(("image", "label"), dataset.read("test"), strict=True):
        seen = np.concatenate([batch[name][mask] for batch, mask in batches])
        np.testing.assert_array_equal(seen, expected)


def test_padding_is_zeros_that_the_mask_leaves_out():
    examples = {"image": np.ones((3, 2, 2, 1), np.uint8), "label": np.array([4, 5, 6], np.int32)}
    batch, mask = pad(examples, 4, count=2)
    np.testing.assert_array_equal(mask, [True, True, False, False])
    np.testing.assert_array_equal(batch["label"], np.array([4, 5, 0, 0]))
    assert batch["image"].dtype == np.uint8
    assert batch["image"].sum() == 2 * 4
    whole, mask = pad(examples, 3)
    assert whole is examples
    assert mask.all()
    assert not pad(examples, 2, count=0).mask.any()


@pytest.mark.parametrize("residence", ["device", "disk"])
def test_batches_do_not_depend_on_where_images_are_kept(grey, residence):
    dataset = open_dataset("mnist", grey)
    in_memory = open_pipeline(dataset, 16, seed=3, residence="memory")
    elsewhere = open_pipeline(dataset, 16, seed=3, residence=residence, workers=3)
    assert (in_memory.residence, elsewhere.residence) == ("memory", residence)
    assert_same_batches(take(elsewhere, 0, 15), take(in_memory, 0, 15))
    assert_same_batches(elsewhere.evaluation_batches(8), in_memory.evaluation_batches(8))


@settings(deadline=None, max_examples=12)
@given(
    batch_size=st.integers(1, 24),
    processes=st.integers(1, 4),
    first_step=st.integers(0, 40),
    residence=st.sampled_from(["device", "memory", "disk"]),
)
def test_each_example_comes_once_per_epoch_over_all_processes(grey, batch_size, processes, first_step, residence):
    dataset, whole = open_dataset("mnist", grey), batch_size * processes
    steps = -(-2 * 97 // whole) + first_step + 1
    parts = [
        take(open_pipeline(dataset, whole, seed=1, residence=residence, share=(p, processes), workers=2), 0, steps)
        for p in range(processes)
    ]
    images, labels = dataset.read("train")
    joined = [
        {name: np.concatenate([parts[p][step][name] for p in range(processes)]) for name in ("image", "label")}
        for step in range(steps)
    ]
    stream = np.concatenate([batch["image"] for batch in joined])
    for epoch in range(2):
        seen = stream[epoch * 97 : (epoch + 1) * 97]
        assert sorted(image.tobytes() for image in seen) == sorted(image.tobytes() for image in images)
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for batch in joined:
        assert [label_of[image.tobytes()] for image in batch["image"]] == batch["label"].tolist()
    later = open_pipeline(dataset, whole, seed=1, residence=residence, workers=2)
    assert_same_batches(take(later, first_step, steps - first_step), joined[first_step:])


@settings(deadline=None, max_examples=10)
@given(batch_size=st.integers(1, 12), processes=st.integers(1, 4), residence=st.sampled_from(["memory", "disk"]))
def test_evaluation_covers_every_example_once_over_all_processes(grey, batch_size, processes, residence):
    dataset, whole = open_dataset("mnist", grey), batch_size * processes
    seen = []
    for part in range(processes):
        pipeline = open_pipeline(dataset, processes, residence=residence, share=(part, processes), workers=2)
        for batch, mask in pipeline.evaluation_batches(whole):
            assert len(batch["image"]) == len(batch["label"]) == batch_size
            seen += [image.tobytes() for image in batch["image"][mask]]
    assert sorted(seen) == sorted(image.tobytes() for image in dataset.read("test")[0])


@pytest.mark.parametrize("residence", ["device", "memory", "disk"])
def test_batches_are_placed_ahead_in_order_and_no_further(grey, residence):
    placed = []

    def place(batch):
        placed.append(batch)
        return len(placed) - 1

    pipeline = open_pipeline(open_dataset("mnist", grey), 8, residence=residence)
    batches = pipeline.batches(3, place=place)
    for number in range(6):
        assert next(batches) == number
        assert len(placed) == number + 1 + READ_AHEAD
    assert_same_batches(placed, take(pipeline, 3, 6 + READ_AHEAD))


def test_batches_of_the_steps_of_a_call_come_together_and_end_with_the_calls(grey):
    pipeline, placed = open_pipeline(open_dataset("mnist", grey), 8, residence="memory"), []

    def place(batches):
        placed.append(len(batches))
        return batches

    calls = list(pipeline.batches(2, place=place, counts=[1, 3, 2]))
    assert [len(call) for call in calls] == placed == [1, 3, 2]
    assert_same_batches(list(itertools.chain(*calls)), take(pipeline, 2, 6))


def test_waiting_is_the_time_until_data_is_there_and_not_that_of_placing(grey, monkeypatch):
    clock = 0.0

    def pass_time(seconds):
        nonlocal clock
        clock += seconds

    monkeypatch.setattr("jaxcnn.data.pipeline.time", SimpleNamespace(perf_counter=lambda: clock))
    pipeline = open_pipeline(open_dataset("mnist", grey), 8, residence="memory")
    indices = Pipeline.indices
    monkeypatch.setattr(Pipeline, "indices", lambda self, step: pass_time(1) or indices(self, step))
    batches = pipeline.batches(place=lambda batch: pass_time(100))
    for _ in range(4):
        next(batches)
        pass_time(1000)  # the step
    assert pipeline.waited == 4 + READ_AHEAD


def test_what_placing_raises_comes_with_the_batch(grey):
    def place(batch):
        raise UsageError("batch_size 8 cannot be divided")

    pipeline = open_pipeline(open_dataset("mnist", grey), 8)
    with pytest.raises(UsageError, match="cannot be divided"):
        next(pipeline.batches(place=place))
    with pytest.raises(UsageError, match="cannot be divided"):
        next(pipeline.evaluation_batches(8, place=place))


def test_a_damaged_dataset_is_reported_by_workers_too(grey, tmp_path):
    shutil.copytree(grey / "mnist", tmp_path / "mnist")
    for records in (tmp_path / "mnist" / "3.0.1").glob("*train*"):
        records.write_bytes(records.read_bytes()[:1000])
    pipeline = open_pipeline(open_dataset("mnist", tmp_path), 8, residence="disk")
    with pytest.raises(UsageError, match=r"'mnist' in .* is damaged: .*\. Run jaxcnn prepare mnist --force to prepare"):
        next(pipeline.batches())


def test_imagenet_as_tfds_prepares_it_is_tested_on_its_validation_images(tmp_path, originals):
    """Under its own name and features, of which the test split has no labels, with a few small images of its own."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    originals.write_image_folder(tmp_path / "images", {"train": 6, "validation": 3, "test": 2})
    stock = tfds.builder_cls("imagenet2012")
    with registered.skip_registration():

        class Few(stock):
            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in ("train", "validation", "test")}

            def _generate_examples(self, split):
                for path in sorted((tmp_path / "images" / split).rglob("*.jpg")):
                    label = -1 if split == "test" else 5 if path.parent.name == "ant" else 999
                    yield str(path), {"image": path.read_bytes(), "label": label, "file_name": path.name}

    Few.name = "imagenet2012"
    builder = Few(data_dir=tmp_path / "data", file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    dataset = open_dataset("imagenet2012", tmp_path / "data")
    assert dataset.num_classes == 1000
    assert dataset.examples == {"train": 12, "test": 6}
    assert dataset.sizes_differ
    pipeline = open_pipeline(dataset, 4, geometry=dataset.geometry(32), augment=["resized_crop", "flip"])
    assert pipeline.residence == "disk"
    batches = take(pipeline, 0, 3)
    assert sorted(np.concatenate([batch["label"] for batch in batches])) == [5] * 6 + [999] * 6
    tested = list(pipeline.evaluation_batches(4))
    assert sorted(np.concatenate([batch["label"][mask] for batch, mask in tested])) == [5] * 3 + [999] * 3
    assert all(batch["image"].shape == (4, 32, 32, 3) for batch in (*batches, *(batch for batch, _ in tested)))
