"""The copy of an image folder is complete or absent, records its contents, and replaces older copies."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from jaxcnn.data import imagefolder, open_dataset
from jaxcnn.data.imagefolder import reading, storage
from jaxcnn.data.threads import count_cores, map_in_threads
from jaxcnn.errors import RunError, UsageError


@pytest.fixture
def release():
    """Return a function that releases the copies that this process uses, as if it ended."""

    def close_all():
        while storage._locked:
            os.close(storage._locked.popitem()[1])

    close_all()
    return close_all


def test_all_damaged_images_are_named_in_one_line_or_skipped(images, tmp_path):
    pics = tmp_path / "pics"
    images.write_classes(pics, count=25)
    names = [f"{label}/{index}.png" for label in ("ant", "bee") for index in range(0, 22, 2)]
    for name in names:
        content = (pics / name).read_bytes()
        (pics / name).write_bytes(content[: len(content) // 2])
    (pics / "ant" / "empty.jpg").write_bytes(b"")
    names.append("ant/empty.jpg")
    with pytest.raises(UsageError, match=r"pics has 23 damaged images: .*--skip-damaged\.$") as error:
        images.prepare(tmp_path)
    assert all(f"{name} (" in str(error.value) for name in names)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()

    skipped = images.prepare(tmp_path, skip_damaged=True)
    assert "damaged (23)" in skipped.notes[0]
    assert images.count_images(skipped.directory) == {"ant": (11, 3), "bee": (11, 3)}
    assert imagefolder.inventory(skipped.directory)["skipped"] == sorted(names)
    # The copy exists, but it is not what this call asks for.
    with pytest.raises(UsageError, match="23 damaged images"):
        images.prepare(tmp_path)
    assert images.prepare(tmp_path, skip_damaged=True) == skipped


def test_a_common_size_is_that_of_the_upright_images(images, tmp_path):
    images.write_classes(tmp_path / "pics")
    for index in range(3):
        images.write_image(tmp_path / "pics" / "cow" / f"{index}.png", index, size=(8, 8))
    for label in ("ant", "bee", "cow"):
        for index in range(3):
            images.write_image(tmp_path / "pics" / label / f"{index}.png", index, size=(6, 10))
    rotated = Image.open(tmp_path / "pics" / "ant" / "0.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    rotated.save(tmp_path / "pics" / "ant" / "0.png", exif=exif)
    assert rotated.size == (6, 10)
    dataset = open_dataset(f"imagefolder:{tmp_path / 'pics'}", tmp_path / "data")
    assert dataset.image_shape == (6, 10, 3)
    assert imagefolder.inventory(dataset.directory)["image_size"] == [6, 10]


def test_the_inventory_names_what_changed(images, tmp_path):
    images.write_classes(tmp_path / "pics", ["ant", "bee"], 5)
    first = imagefolder.inventory(images.prepare(tmp_path).directory)
    (tmp_path / "pics").rename(tmp_path / "moved")
    moved = imagefolder.prepare(str(tmp_path / "moved"), tmp_path / "data")
    assert imagefolder.inventory(moved.directory) == first
    (tmp_path / "moved").rename(tmp_path / "pics")
    path = tmp_path / "pics" / "ant" / "0.bmp"
    images.write_image(path, 100)
    before = imagefolder.inventory(images.prepare(tmp_path).directory)["classes"]
    images.write_image(path, 101)  # of the same size, since it is not compressed
    os.utime(path, ns=(1, 1))
    after = imagefolder.inventory(images.prepare(tmp_path).directory)["classes"]
    assert after["bee"] == before["bee"] == first["classes"]["bee"]
    for key, equal in (("files", True), ("sizes", True), ("contents", False)):
        old, new = ([classes["ant"][split][key] for split in ("train", "test")] for classes in (before, after))
        assert (old == new) == equal


def test_each_file_is_read_once(images, tmp_path, monkeypatch):
    images.write_classes(tmp_path / "pics", count=5)
    (tmp_path / "pics" / "ant" / "notes.txt").write_text("not an image")
    read, progress = [], []
    original = reading._read
    monkeypatch.setattr(reading, "_read", lambda file: (read.append(file.relative), original(file))[1])
    images.prepare(tmp_path, progress=lambda *counts: progress.append(counts))
    assert len(read) == len(set(read)) == 11
    assert progress[-1] == ("files", 11, 11)
    images.prepare(tmp_path)
    assert len(read) == 11


def test_at_most_two_files_per_thread_are_in_memory():
    taken = []

    def count():
        for index in range(1000):
            taken.append(index)
            yield index

    for done, value in enumerate(map_in_threads(lambda index: index, count()), 1):
        assert value == done - 1
        assert len(taken) - done < 2 * count_cores()


def test_a_new_copy_replaces_older_ones_that_no_process_uses(images, tmp_path, release):
    images.write_classes(tmp_path / "pics")
    images.write_classes(tmp_path / "others")
    other = imagefolder.prepare(str(tmp_path / "others"), tmp_path / "data").directory
    first = images.prepare(tmp_path).directory
    reader = "import sys, pathlib; from jaxcnn.data.imagefolder import storage; storage.use(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", f"{reader}; print('ready', flush=True); input()", str(first)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        release()
        images.write_image(tmp_path / "pics" / "ant" / "new.png")
        second = images.prepare(tmp_path).directory
        assert first.exists()
        process.communicate(b"\n")
    release()
    images.write_image(tmp_path / "pics" / "ant" / "newer.png")
    third = images.prepare(tmp_path).directory
    assert sorted((tmp_path / "data").iterdir()) == sorted([other.parent, third.parent])
    assert len({first, second, third}) == 3


def test_what_a_killed_preparation_left_is_removed(images, tmp_path):
    data = tmp_path / "data"
    (data / ".imagefolder_0123_4567-xyz" / "imagefolder_0123_4567").mkdir(parents=True)
    images.write_classes(tmp_path / "pics")
    with storage.temporary(data, "imagefolder_89ab_cdef") as work:
        prepared = images.prepare(tmp_path)
        assert sorted(data.iterdir()) == sorted([prepared.directory.parent, work])
    assert list(data.iterdir()) == [prepared.directory.parent]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_when_writing_fails(images, error, tmp_path, monkeypatch):
    def fail(*args):
        raise error

    images.write_classes(tmp_path / "pics")
    monkeypatch.setattr(storage.Writer, "write", fail)
    with pytest.raises((RunError, KeyboardInterrupt)) as raised:
        images.prepare(tmp_path)
    if isinstance(error, OSError):
        assert "No space left on device. Free space, or use another --data-dir." in str(raised.value)
    assert not (tmp_path / "data").exists()


def test_a_copy_that_was_removed_in_part_is_written_again(images, tmp_path):
    images.write_classes(tmp_path / "pics")
    prepared = images.prepare(tmp_path)
    (prepared.directory / "dataset_info.json").unlink()
    assert images.prepare(tmp_path) == prepared
    assert open_dataset(f"imagefolder:{tmp_path / 'pics'}", tmp_path / "data").read("train")[0].shape == (4, 8, 8, 3)
    # Another process has written the same copy while this one did.
    work = tmp_path / "work"
    (work / prepared.directory.parent.name / "1.0.0").mkdir(parents=True)
    storage.move(work, prepared.directory)
    assert images.prepare(tmp_path) == prepared


def test_a_damaged_inventory_is_an_error(images, tmp_path):
    images.write_classes(tmp_path / "pics")
    directory = images.prepare(tmp_path).directory
    stored = directory / "imagefolder.json"
    assert json.loads(stored.read_text())["image_size"] == [8, 8]
    stored.write_text("{")
    with pytest.raises(UsageError, match=r"prepared image folder is damaged: .*imagefolder\.json\. Remove "):
        images.prepare(tmp_path)
