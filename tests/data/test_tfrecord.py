"""Datasets that TFDS has prepared in TFRecord files are read at random, and damage is found."""

import random

import numpy as np
import pytest
from tensorboardX.crc32c import crc32c as reference_crc32c
from tensorboardX.record_writer import RecordWriter

from jaxcnn.data import open_dataset
from jaxcnn.data.datasets import BUNDLED_DIR
from jaxcnn.data.tfrecord import Part, TfRecordSource, crc32c
from jaxcnn.errors import UsageError

NAME = "fashion_mnist_mini"


def write_records(path, records):
    writer = RecordWriter(str(path))
    for record in records:
        writer.write(record)
    writer.close()


@pytest.fixture(scope="module")
def records():
    """The first 40 serialized training examples of the dataset in the package."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(BUNDLED_DIR / NAME / "1.0.0")
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return list(builder.as_data_source(split="train[:40]", deserialize_method=raw).__getitems__(range(40)))


@pytest.fixture
def prepared(records, tmp_path):
    """The folder of a dataset in TFRecord files: 30 training images in two files, and 10 test images."""
    import tensorflow_datasets as tfds

    folder = tmp_path / NAME / "1.0.0"
    folder.mkdir(parents=True)
    shards = {"train": (records[:20], records[20:30]), "test": (records[30:],)}
    template = tfds.core.ShardedFileTemplate(dataset_name=NAME, data_dir=folder, filetype_suffix="tfrecord")
    splits = []
    for split, parts in shards.items():
        lengths = [len(part) for part in parts]
        info = tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=1, filename_template=template)
        splits.append(info)
        for path, part in zip(info.filepaths, parts, strict=True):
            write_records(path, part)
    original = tfds.builder_from_directory(BUNDLED_DIR / NAME / "1.0.0").info
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=original.features,
        split_infos=splits,
        check_data=False,
        supervised_keys=("image", "label"),
    )
    return folder


def test_the_checksum_is_crc_32c():
    rng = random.Random(0)
    assert crc32c(b"123456789") == 0xE3069283
    for length in (0, 1, 3, 4, 63, 64, 65, 1023, 1024, 1025, 5000):
        data = rng.randbytes(length)
        assert crc32c(data) == reference_crc32c(data)


def test_records_are_read_at_random(prepared, records):
    import tensorflow_datasets as tfds

    info = tfds.builder_from_directory(prepared).info
    source = TfRecordSource(info.splits["train"].file_instructions)
    assert len(source) == 30
    assert source.__getitems__([29, 0, 20, 19, 19]) == [records[index] for index in (29, 0, 20, 19, 19)]
    part = TfRecordSource(info.splits["train[50%:]"].file_instructions)
    assert [part[index] for index in range(len(part))] == records[15:30]
    with pytest.raises(IndexError, match="out of range: 30"):
        source[30]


def test_a_dataset_in_tfrecord_files_is_opened_as_any_other(prepared):
    dataset = open_dataset(f"{NAME}_records", rename(prepared))
    images, labels = dataset.read("train")
    expected = open_dataset(NAME).read("train")
    np.testing.assert_array_equal(images, expected[0][:30])
    np.testing.assert_array_equal(labels, expected[1][:30])


def rename(prepared):
    """Give the dataset another name than that of the dataset in the package; return the folder of datasets."""
    data_dir, name = prepared.parents[1], f"{NAME}_records"
    prepared.parent.rename(data_dir / name)
    for path in (data_dir / name / "1.0.0").iterdir():
        path.rename(path.with_name(path.name.replace(NAME, name)))
    info = data_dir / name / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace(f'"{NAME}"', f'"{name}"'))
    return data_dir


def test_a_format_that_cannot_be_read_is_reported(prepared):
    data_dir = rename(prepared)
    info = data_dir / f"{NAME}_records" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"tfrecord"', '"riegeli"'))
    with pytest.raises(UsageError, match=r"unsupported file format .*: riegeli\. Prepare the dataset again with"):
        open_dataset(f"{NAME}_records", data_dir).read("train")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda content: content[:-1], "truncated"),
        (lambda content: content[:6], "truncated"),
        (lambda content: bytes([content[0] ^ 1]) + content[1:], "length of record 0"),
        (lambda content: content[:12] + bytes([content[12] ^ 1]) + content[13:], "wrong checksum of record 0"),
        (lambda content: content[: len(content) // 2], "wrong number of records in .*: 1 instead of 2"),
    ],
)
def test_damage_is_found(damage, says, tmp_path):
    path = tmp_path / "x.tfrecord"
    write_records(path, [b"abc" * 100, b"def" * 100])
    source = TfRecordSource([Part(str(path), 0, 2, 2)])
    assert source[0] == b"abc" * 100
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=says):
        TfRecordSource([Part(str(path), 0, 2, 2)])[0]
