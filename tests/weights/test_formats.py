"""Weight files are told by their content, and every other file is one line that says what it is."""

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.weights import files_of, formats, is_weight_folder, read_arrays, safetensors

GOLDEN = Path(__file__).parent / "golden"
SUFFIXES = ["", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".pth.tar", ".safetensors", ".h5"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["archive", "stream"])
def test_the_suffix_of_a_pytorch_file_does_not_matter(kind, suffix, tmp_path):
    shutil.copy(GOLDEN / f"{kind}.pth", tmp_path / f"weights{suffix}")
    assert list(read_arrays(tmp_path / f"weights{suffix}")) == list(read_arrays(GOLDEN / f"{kind}.pth"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_suffix_of_a_safetensors_file_does_not_matter(suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    safetensors.write(path, {"a": np.ones(3, np.float32)}, {"image_shape": "8x8x3"})
    assert list(read_arrays(path)) == ["a"]
    assert safetensors.recorded(path, "image_shape") == "8x8x3"


def packed(write) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


OTHERS = {
    "empty": (b"", "it is empty"),
    "a picture": (b"\x89PNG\r\n\x1a\n" * 9, "neither a file of torch.save nor a safetensors file"),
    "Keras": (b"\x89HDF\r\n\x1a\n" * 9, "an HDF5 file, such as Keras writes"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Run `git lfs pull`"),
    "gzip": (gzip.compress(b"x" * 99), "compressed by gzip. Unpack it"),
    "a page of an error": (b"\n<!DOCTYPE html><title>404</title>", "an HTML or XML page"),
    "a tar archive": (packed(lambda b: tarfile.open(fileobj=b, mode="w").close()) or b"", "neither|tar archive"),
    "an array": (packed(lambda b: np.save(b, np.ones(2))), "a NumPy array"),
    "arrays": (packed(lambda b: np.savez(b, a=np.ones(2))), "an archive of NumPy"),
    "text": (b"conv1.weight", "neither a file of torch.save"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_kind_is_named_in_one_line(name, tmp_path):
    content, says = OTHERS[name]
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UsageError, match=says) as error:
        read_arrays(tmp_path / "weights.pth")
    assert "\n" not in str(error.value)


def test_a_tar_archive_is_named(tmp_path):
    with tarfile.open(tmp_path / "weights.tar", "w") as archive:
        archive.add(GOLDEN / "archive.pth")
    with pytest.raises(UsageError, match="it is a tar archive"):
        read_arrays(tmp_path / "weights.tar")


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_arrays(tmp_path / "none.pth")


def test_a_folder_without_weights_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"folder without weights: .* one of model\.safetensors"):
        read_arrays(tmp_path)
    assert not is_weight_folder(tmp_path)


def in_two_files(folder: Path, **changes) -> Path:
    """Write two safetensors files and their index."""
    for number, name in enumerate("ab", start=1):
        safetensors.write(folder / f"model-{number}.safetensors", {name: np.full(2, number, np.float32)}, {})
    index = folder / "model.safetensors.index.json"
    files = {"a": "model-1.safetensors", "b": "model-2.safetensors", **changes}
    index.write_text(json.dumps({"metadata": {"total_size": 16}, "weight_map": files}))
    return index


def test_an_index_joins_its_files(tmp_path):
    index = in_two_files(tmp_path)
    for path in (index, tmp_path):
        found = read_arrays(path)
        assert {name: stored.read().tolist() for name, stored in found.items()} == {"a": [1, 1], "b": [2, 2]}
    assert is_weight_folder(tmp_path)
    assert [file.name for file in files_of(index)] == [index.name, "model-1.safetensors", "model-2.safetensors"]


def test_a_file_that_repeats_an_array_of_another_does_not_replace_it(tmp_path):
    index = in_two_files(tmp_path)
    both = {"a": np.zeros(2, np.float32), "b": np.full(2, 2, np.float32)}
    safetensors.write(tmp_path / "model-2.safetensors", both, {})
    assert read_arrays(index)["a"].read().tolist() == [1, 1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"a": "../model-1.safetensors"}, "names a file outside of its folder"),
        ({"a": "/etc/passwd"}, "names a file outside of its folder"),
        ({"a": 3}, "names a file outside of its folder"),
        ({"a": ["model-1.safetensors"]}, "names a file outside of its folder"),
        ({"a": "model.safetensors.index.json"}, "names a file outside of its folder"),
        (
            {"a": "model-3.safetensors"},
            "needs the file 'model-3.safetensors' in the same folder, but this file is missing",
        ),
        ({"c": "model-1.safetensors"}, "1 arrays are not in the files that the index gives, such as 'c'"),
    ],
)
def test_a_wrong_index_is_one_line(changes, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        read_arrays(in_two_files(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 1}', '{"weight_map": [1]}', "[" * 100_000])
def test_a_damaged_index_is_one_line(text, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UsageError, match="has no weight_map"):
        read_arrays(tmp_path)


def test_a_folder_prefers_safetensors(tmp_path):
    shutil.copy(GOLDEN / "archive.pth", tmp_path / "pytorch_model.bin")
    assert formats.file_in(tmp_path).name == "pytorch_model.bin"
    safetensors.write(tmp_path / "model.safetensors", {"a": np.ones(1, np.float32)}, {})
    assert formats.file_in(tmp_path).name == "model.safetensors"
