"""The safetensors format: what is written is read to the last bit, and a header is trusted in nothing."""

import contextlib
import json
import random

import ml_dtypes
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.weights import safetensors

ARRAYS = {
    "a/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
    "b": np.array(7, np.int64),
    "c": np.array([1.5, -2], ml_dtypes.bfloat16),
    "d": np.zeros((0, 3), np.float16),
    "e": np.array([True, False]),
    "ü": np.arange(3, dtype=np.uint8),
}


@pytest.fixture
def file(tmp_path):
    safetensors.write(tmp_path / "x.safetensors", ARRAYS, {"model": "lenet5"})
    return tmp_path / "x.safetensors"


def test_what_was_written_is_read_to_the_last_bit(file):
    read = safetensors.read(file)
    assert list(read) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (read[name].shape, read[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(read[name].read(), array)
    assert safetensors.metadata(file) == {"model": "lenet5"}
    assert [path.name for path in file.parent.iterdir()] == ["x.safetensors"]


def test_the_reference_implementation_reads_it_and_is_read(file, tmp_path):
    import safetensors.numpy as reference

    arrays = {name: array for name, array in ARRAYS.items() if name != "c"}
    safetensors.write(file, arrays, {})
    theirs = reference.load_file(file)
    for name, array in arrays.items():
        np.testing.assert_array_equal(theirs[name], array)
    contiguous = {name: np.array(array, order="C") for name, array in arrays.items()}
    reference.save_file(contiguous, tmp_path / "theirs.safetensors")
    for name, stored in safetensors.read(tmp_path / "theirs.safetensors").items():
        np.testing.assert_array_equal(stored.read(), arrays[name])


def header(table, data: bytes = bytes(16), length: int | None = None) -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2, 2), place=(0, 16), **more):
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": place}, **more}


LIES = {
    "nothing": b"",
    "seven bytes": b"1234567",
    "a header longer than the file": header(entry(), length=10_000),
    "a header of 2^63 bytes": header(entry(), length=2**63),
    "a header that is cut off": header(entry())[:40],
    "no JSON": header(b"{'x': 1}"),
    "not UTF-8": header(b'{"\xff": 1}'),
    "a list": header([1, 2]),
    "a hundred thousand brackets": header(b"[" * 100_000),
    "a number of ten thousand digits": header(b'{"x": ' + b"9" * 10_000 + b"}"),
    "a name twice": header(b'{"x": 1, "x": 2}'),
    "an entry that is a number": header({"x": 3}),
    "no dtype": header({"x": {"shape": [4], "data_offsets": [0, 16]}}),
    "three offsets": header(entry(place=(0, 8, 16))),
    "an unknown dtype": header(entry(dtype="F31")),
    "a dtype that is a list": header(entry(dtype=["F32"])),
    "a shape that is text": header(entry(shape="22")),
    "a shape of fractions": header(entry(shape=(2.0, 2))),
    "a shape of truths": header(entry(shape=(True, 4))),
    "a negative size": header(entry(shape=(-2, -2))),
    "a shape that is larger": header(entry(shape=(2, 3))),
    "a shape that is smaller": header(entry(shape=(2, 1))),
    "an absurd shape": header(entry(shape=(2**40, 2**40))),
    "a place behind the end": header(entry(place=(8, 24))),
    "a place before the start": header(entry(place=(-16, 0))),
    "a place that ends before it starts": header(entry(place=(16, 0))),
    "two arrays in one place": header(entry(y=entry()["x"])),
    "data that is cut off": header(entry(), data=bytes(15)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_wrong_header_is_reported_in_one_line(lie, tmp_path):
    path = tmp_path / "lie.safetensors"
    path.write_bytes(LIES[lie])
    with pytest.raises(UsageError, match="is not a valid safetensors file") as error:
        safetensors.read(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + len(str(path))


def test_an_absurd_but_empty_shape_takes_no_memory(tmp_path):
    path = tmp_path / "empty.safetensors"
    path.write_bytes(header(entry(shape=(0, 2**40), place=(0, 0))))
    assert safetensors.read(path)["x"].read().size == 0


def test_damage_to_any_byte_is_at_most_a_one_line_error(file):
    content, generator = file.read_bytes(), random.Random(0)
    for _ in range(500):
        damaged = bytearray(content)
        for _ in range(generator.choice([1, 1, 3])):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        file.write_bytes(damaged)
        with contextlib.suppress(UsageError):
            for stored in safetensors.read(file).values():
                assert stored.read().shape == stored.shape
            safetensors.metadata(file)


def test_a_path_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "taken.safetensors").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        safetensors.write(tmp_path / "taken.safetensors", ARRAYS, {})
    with pytest.raises(UsageError, match="cannot write"):
        safetensors.write(tmp_path / "nowhere" / "x.safetensors", ARRAYS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["taken.safetensors"]
