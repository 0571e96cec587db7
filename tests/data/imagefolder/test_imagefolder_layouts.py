"""Every file of an image folder is found and judged, and what is left out is reported."""

import os
import random

import pytest

from jaxcnn.data import imagefolder
from jaxcnn.data.imagefolder import division, scan
from jaxcnn.data.imagefolder.files import File
from jaxcnn.errors import UsageError


def test_images_are_found_by_content_at_any_depth_and_through_links(images, tmp_path):
    pics = tmp_path / "pics"
    for index, name in enumerate(["a.tif", "b.avif", "c.JPG", "d.gif", "e/f.bmp", "e/g/h.webp"]):
        images.write_image(pics / "ant" / name, index)
    images.write_image(pics / "ant" / "i.jpg", 7)
    (pics / "ant" / "i.jpg").rename(pics / "ant" / "i.jfif")
    images.write_image(pics / "ant" / "j.png", 8)
    (pics / "ant" / "j.png").rename(pics / "ant" / "without suffix")
    images.write_image(pics / "ant" / "k.png", 9)
    (pics / "ant" / "k.png").rename(pics / "ant" / "k.txt")
    images.write_classes(tmp_path / "elsewhere", ["x"], 10)
    (pics / "bee").symlink_to(tmp_path / "elsewhere" / "x")
    (pics / "cow").mkdir()
    for index in range(5):
        (pics / "cow" / f"{index}.png").symlink_to(tmp_path / "elsewhere" / "x" / f"{index}.png")
    prepared = images.prepare(tmp_path)
    assert images.count_images(prepared.directory) == {"ant": (7, 2), "bee": (8, 2), "cow": (4, 1)}
    assert prepared.notes[0] == (
        "pics: 3 classes (ant, bee, cow), 19 training and 5 test images (one fifth of each class); image size 8 x 8"
    )


def test_files_that_are_left_out_are_counted_by_reason(images, tmp_path):
    pics = tmp_path / "pics"
    for split, count in {"train": 3, "test": 1, "Testing": 2}.items():
        images.write_classes(pics / split, count=count)
    (pics / "train" / "ant" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (pics / "train" / "ant" / "notes.txt").write_text("")
    (pics / "train" / "bee" / "._0.png").write_bytes(b"\x00\x05\x16\x07")
    (pics / "train" / ".DS_Store").write_bytes(b"\x00")
    (pics / "labels.csv").write_text("0,ant")
    (pics / "train" / "bee" / "gone.png").symlink_to("nowhere")
    (pics / "train" / "bee" / "round.png").symlink_to("round.png")
    os.mkfifo(pics / "train" / "bee" / "pipe.png")
    (pics / "train" / "bee" / "process").symlink_to("/proc/self")
    prepared = images.prepare(tmp_path)
    left_out = {
        "outside the class folders": 1,
        "in Testing/, since test/ is the test set": 4,
        "hidden": 2,
        "broken links": 2,
        "not regular files": 2,
        "not images": 2,
    }
    assert imagefolder.inventory(prepared.directory)["left_out"] == left_out
    assert images.count_images(prepared.directory) == {"ant": (3, 1), "bee": (3, 1)}
    assert all(f"{reason} ({count})" in prepared.notes[0] for reason, count in left_out.items())
    assert str(prepared.directory) in prepared.notes[1]
    assert images.prepare(tmp_path) == prepared


def test_a_test_folder_without_classes_is_not_the_test_set(images, tmp_path):
    images.write_classes(tmp_path / "pics" / "train", count=5)
    images.write_classes(tmp_path / "pics", ["test"], 4)
    found = scan.find(tmp_path / "pics")
    assert found.left_out == {"in test/, which has no class folders": 4}
    assert sorted(division.assign(found.files).values()) == ["test"] * 2 + ["train"] * 8
    images.write_classes(tmp_path / "pics" / "valid", count=1)
    found = scan.find(tmp_path / "pics")
    assert found.left_out == {"in test/, since valid/ is the test set": 4}
    assert sorted(division.assign(found.files).values()) == ["test"] * 2 + ["train"] * 10


def test_loops_of_links_end(images, tmp_path):
    pics = tmp_path / "pics"
    images.write_classes(pics)
    for target, link in (
        (pics, "ant/up"),
        (pics / "ant", "ant/self"),
        (pics / "bee", "ant/x"),
        (pics / "ant", "bee/y"),
    ):
        (pics / link).symlink_to(target)
    found = scan.find(pics)
    # Each class contains the other one through a link, once.
    assert sorted(file.name for file in found.files if file.label == "ant") == [
        *("0.png", "1.png", "2.png"),
        *("x/0.png", "x/1.png", "x/2.png"),
    ]
    assert found.left_out == {scan.LOOPS: 6}


def test_one_fifth_of_each_class_is_the_test_set():
    for count in [*range(1, 41), 100, 1003]:
        files = [File(f"{i}", f"{i}", f"{i}.png", "ant", None, 1, 1) for i in range(count)]
        tests = list(division.assign(files).values()).count("test")
        assert tests == (max(1, round(count / 5)) if count > 1 else 0)


def test_an_additional_image_moves_at_most_one_other():
    rng, files = random.Random(0), []
    before = {}
    for count in range(200):
        files.insert(rng.randrange(count + 1), File(f"{count}", f"{count}", f"{count}.png", "ant", None, 1, 1))
        after = division.assign(files)
        assert sum(after[file] != split for file, split in before.items()) <= 1
        before = after


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (["train/ant", "train/bee"], {"ant": (4, 1), "bee": (4, 1)}),
        (["Training/ant", "Training/bee", "Testing/ant", "Testing/bee"], {"ant": (5, 5), "bee": (5, 5)}),
        (["train", "car"], {"car": (4, 1), "train": (4, 1)}),
        (["valid", "invalid"], {"invalid": (4, 1), "valid": (4, 1)}),
        (["[red]", "[b]", "test"], {"[b]": (4, 1), "[red]": (4, 1), "test": (4, 1)}),
        (["train/ant", "train/bee", "val/ant"], {"ant": (5, 5), "bee": (5, 0)}),
    ],
)
def test_layouts(images, folders, classes, tmp_path):
    images.write_classes(tmp_path / "pics", folders, 5)
    found = scan.find(tmp_path / "pics")
    splits = [(file.label, split) for file, split in division.assign(found.files).items()]
    counts = {label: (splits.count((label, "train")), splits.count((label, "test"))) for label in found.class_names}
    assert dict(sorted(counts.items())) == classes


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (["train/ant", "train/bee", "car"], r"other folders of images \(car\), but no test folder"),
        (["test/ant", "test/bee"], "has a folder test but no folder train"),
        (["ant", "bee", "test/ant"], "has a folder test but no folder train"),
        (["train", "test"], "train has no class folders"),
        (["train/ant", "train/bee", "test/ant", "test/cow"], "no training images of class 'cow'"),
        (["ant"], "training images of only one class: ant"),
        (["ant", "cat "], r"class folder: '.*/cat '"),
        (["ant", "c\nt"], r"class folder: '.*/c\\x0at'"),
        (["ant", os.fsdecode(b"caf\xe9")], r"class folder: '.*/caf\\xe9'"),
    ],
)
def test_layouts_that_are_refused(images, folders, says, tmp_path):
    images.write_classes(tmp_path / "pics", folders, 2)
    with pytest.raises(UsageError, match=says) as error:
        images.prepare(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["", "notes.txt", ".hidden.png"])
def test_a_class_without_images_is_an_error(images, name, tmp_path):
    images.write_classes(tmp_path / "pics")
    (tmp_path / "pics" / "cow").mkdir()
    if name:
        (tmp_path / "pics" / "cow" / name).write_bytes(b"not an image")
    with pytest.raises(UsageError, match=r"no images: .*/cow\. Add|no training images of class 'cow'"):
        images.prepare(tmp_path)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("path", ["", "nowhere", "~nobody5/x", "x" * 300, "a\0b", "\ud800"])
def test_a_path_that_is_no_folder_is_an_error(path, tmp_path):
    with pytest.raises(UsageError, match="is not a folder"):
        imagefolder.prepare(path, tmp_path)


def test_file_names_need_not_be_utf_8(images, tmp_path):
    images.write_classes(tmp_path / "pics")
    name = os.fsencode(tmp_path / "pics" / "ant") + b"/caf\xe9\n[red].png"
    os.rename(tmp_path / "pics" / "ant" / "0.png", name)
    assert images.count_images(images.prepare(tmp_path).directory) == {"ant": (2, 1), "bee": (2, 1)}
    with open(name, "wb") as file:
        file.write(b"no image")
    with pytest.raises(UsageError, match=r"1 damaged image: ant/caf\\xe9\\x0a\[red\]\.png \(") as error:
        images.prepare(tmp_path)
    assert str(error.value).isprintable()
