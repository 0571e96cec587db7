"""Tables of paths and labels are data sets: from memory or from a file, divided by class, with errors of one line."""

import itertools
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import from_table, imagefolder, open_dataset
from jaxcnn.data.decode import decode
from jaxcnn.data.preparation.prepare import prepare
from jaxcnn.errors import UsageError

LABELS = ["cat", "dog"]


@pytest.fixture(scope="module")
def pictures(images, tmp_path_factory):
    """A folder of 10 images, of which no two are equal: 0.png ... 9.png."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(10):
        images.write_image(folder / f"{index}.png", index)
    return folder


@pytest.fixture
def table():
    """The ten images; the even ones are cats."""
    return {"path": [f"{index}.png" for index in range(10)], "label": [LABELS[index % 2] for index in range(10)]}


def contents(dataset):
    """Return the label of each image of each split, by the content of the file."""
    found = {}
    for split, count in dataset.examples.items():
        examples = dataset.read_encoded(split, range(count))
        found[split] = sorted((example.image, dataset.class_names[example.label]) for example in examples)
    return found


def everything(dataset):
    return sorted(itertools.chain(*contents(dataset).values()))


def refusal(call):
    with pytest.raises(UsageError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_row_is_an_example_with_its_label(pictures, table, tmp_path):
    dataset = from_table(table, root=pictures, data_dir=tmp_path)
    assert dataset.name == "table"
    assert dataset.class_names == ("cat", "dog")
    assert dataset.examples == {"train": 8, "test": 2}
    assert dataset.image_shape == (8, 8, 3)
    rows = sorted(((pictures / path).read_bytes(), label) for path, label in zip(*table.values(), strict=True))
    assert everything(dataset) == rows
    assert [label for _, label in contents(dataset)["test"]] in (["cat", "dog"], ["dog", "cat"])
    pixels, labels = dataset.read("test")
    assert (pixels.shape, labels.dtype) == ((2, 8, 8, 3), np.int32)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_tables_of_libraries_are_read_by_the_names_of_their_columns(library, pictures, table, tmp_path):
    frame = pytest.importorskip(library).DataFrame({"weight": range(10), **table})
    expected = from_table(table, root=pictures, data_dir=tmp_path)
    assert from_table(frame, root=pictures, data_dir=tmp_path).directory == expected.directory
    assert from_table(frame["path"], frame["label"], root=pictures, data_dir=tmp_path).directory == expected.directory
    message = refusal(lambda: from_table(frame, label_column="lable", root=pictures))
    assert message == (
        "the table has no column 'lable'. The columns are 'weight', 'path', 'label'. Did you mean 'label'? "
        "Rename a column, or pass label_column."
    )


def test_pandas_tables_with_categories_missing_values_and_numbers_as_names(pictures, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({0: [f"{index}.png" for index in range(10)], 1: pandas.Categorical(LABELS * 5)})
    by_number = from_table(frame, image_column="0", label_column="1", root=pictures, data_dir=tmp_path)
    assert by_number.examples == {"train": 8, "test": 2}
    frame = pandas.DataFrame({"path": ["0.png", "1.png"], "label": pandas.array([1, None], dtype="Int64")})
    assert "has no label in row 1. Add the label" in refusal(lambda: from_table(frame, root=pictures))
    frame = pandas.DataFrame([["0.png", "1.png", "cat"]], columns=["path", "path", "label"])
    assert "has columns of the same name: ['path', 'path', 'label']" in refusal(lambda: from_table(frame))


def test_paths_may_be_objects_absolute_or_relative_to_the_working_directory(pictures, table, tmp_path, monkeypatch):
    expected = contents(from_table(table, root=pictures, data_dir=tmp_path))
    paths = [pictures / path for path in table["path"]]
    assert contents(from_table(paths, np.array(table["label"]), data_dir=tmp_path, root=pictures)) == expected
    monkeypatch.chdir(pictures)
    assert contents(from_table(tuple(map(pathlib.Path, table["path"])), table["label"], data_dir=tmp_path)) == expected


@pytest.mark.parametrize(
    ("labels", "class_names", "expected"),
    [
        ([10, 9, 2, 10, 9, 2], None, ("2", "9", "10")),
        (["10", "9", "-2", "10", "9", "-2"], None, ("-2", "9", "10")),
        (["10", "9", "b", "10", "9", "b"], None, ("10", "9", "b")),
        ([True, False] * 3, None, ("False", "True")),
        ([0, 1, 0, 1, 0, 1], ["dog", "cat"], ("dog", "cat")),
        (["cat", "dog"] * 3, ["dog", "cat"], ("dog", "cat")),
        (np.arange(6) % 2, ["dog", "cat"], ("dog", "cat")),
    ],
)
def test_labels_are_names_or_positions(labels, class_names, expected, pictures, tmp_path):
    paths = [f"{index}.png" for index in range(6)]
    dataset = from_table(paths, labels, class_names=class_names, root=pictures, data_dir=tmp_path)
    assert dataset.class_names == expected
    named = [str(label) if isinstance(label, str) or class_names is None else expected[label] for label in labels]
    rows = sorted(((pictures / path).read_bytes(), label) for path, label in zip(paths, named, strict=True))
    assert everything(dataset) == rows


def test_a_column_of_splits_divides_the_images(pictures, table, tmp_path):
    table["split"] = ["train"] * 4 + ["Training", "train"] + ["val", "validation"] + ["test", "testing"]
    dataset = from_table(table, root=pictures, data_dir=tmp_path)
    assert dataset.examples == {"train": 6, "test": 2, "validation": 2}
    found = contents(dataset)
    for split, rows in {"train": range(6), "validation": (6, 7), "test": (8, 9)}.items():
        assert found[split] == sorted(((pictures / f"{row}.png").read_bytes(), LABELS[row % 2]) for row in rows)
    assert dataset.notes[0] == (
        "table: 2 classes (cat, dog), 6 training, 2 validation and 2 test images; image size 8 x 8"
    )


def test_validation_rows_without_test_rows_are_the_test_set(pictures, table, tmp_path):
    table["fold"] = ["train"] * 6 + ["valid"] * 4
    dataset = from_table(table, split_column="fold", root=pictures, data_dir=tmp_path, validation=0.34)
    assert dataset.examples == {"train": 4, "test": 4, "validation": 2}
    assert "table: the validation images are used as the test set, because no row has the split test" in dataset.notes


def test_fractions_and_the_seed_choose_the_images(pictures, table, tmp_path):
    divided = {
        seed: from_table(table, root=pictures, data_dir=tmp_path, test=0.4, validation=0.2, seed=seed)
        for seed in range(3)
    }
    for dataset in divided.values():
        assert dataset.examples == {"train": 4, "test": 4, "validation": 2}
        assert everything(dataset) == everything(divided[0])
    assert len({str(contents(dataset)["test"]) for dataset in divided.values()}) > 1
    again = from_table(table, root=pictures, data_dir=tmp_path, test=0.4, validation=0.2, seed=1)
    assert contents(again) == contents(divided[1])


def test_the_order_of_the_rows_has_no_effect(pictures, table, tmp_path):
    backwards = {name: column[::-1] for name, column in table.items()}
    first = from_table(table, root=pictures, data_dir=tmp_path).directory
    assert from_table(backwards, root=pictures, data_dir=tmp_path).directory == first


def test_rows_with_the_same_file_are_examples_and_stay_together(pictures, table, tmp_path):
    repeated = {name: column * 3 for name, column in table.items()}
    dataset = from_table(repeated, root=pictures, data_dir=tmp_path)
    assert dataset.examples == {"train": 24, "test": 6}
    found = contents(dataset)
    assert not {image for image, _ in found["train"]} & {image for image, _ in found["test"]}
    assert not any("both the training" in note for note in dataset.notes)


def test_images_in_two_splits_or_classes_are_noted(pictures, table, images, tmp_path):
    Image.open(pictures / "0.png").save(tmp_path / "other.png")  # with the same content as 0.png
    table["path"][8] = str(tmp_path / "other.png")
    table["path"][9] = "0.png"
    table["split"] = ["train"] * 8 + ["test"] * 2
    notes = from_table(table, root=pictures, data_dir=tmp_path / "data").notes
    assert notes[2:] == (
        "table: 1 image is in both the training and the test set: 0.png",
        "table: 1 image is of several classes: 0.png",
    )


def test_a_class_with_one_image_has_no_test_image(pictures, table, tmp_path):
    table["label"][0] = "ape"
    dataset = from_table(table, root=pictures, data_dir=tmp_path)
    assert images_of(dataset, "ape") == {"train": 1, "test": 0}
    assert "table: no test images of class 'ape'" in dataset.notes


def images_of(dataset, label):
    return {split: part["files"] for split, part in imagefolder.inventory(dataset.directory)["classes"][label].items()}


def test_missing_and_damaged_files_are_all_named(pictures, table, tmp_path):
    missing = {**table, "path": [f"no/{path}" for path in table["path"][:3]] + table["path"][3:]}
    message = refusal(lambda: from_table(missing, root=pictures, data_dir=tmp_path))
    assert f"the table has 3 missing files in {pictures}/: no/0.png, no/1.png, no/2.png. Correct the paths" in message
    odd = {**table, "path": ["", ".", "a\0b", *table["path"][3:]]}
    assert "has no path in row 0" in refusal(lambda: from_table(odd, root=pictures))
    odd["path"][0] = "/proc/self/status"
    message = refusal(lambda: from_table(odd, root=pictures))
    assert ": /proc/self/status (not a file), . (not a file), a\\x00b (not a path)." in message
    for name, content in {"half.png": (pictures / "0.png").read_bytes()[:60], "text": b"no image", "none": b""}.items():
        (tmp_path / name).write_bytes(content)
    damaged = {**table, "path": [str(tmp_path / name) for name in ("half.png", "text", "none")] + table["path"][3:]}
    message = refusal(lambda: from_table(damaged, root=pictures, data_dir=tmp_path / "data"))
    assert message.startswith("the table has 3 damaged images: ")
    assert all(f"{tmp_path / name} (" in message for name in ("half.png", "text", "none"))
    assert not (tmp_path / "data").exists()
    dataset = from_table(damaged, root=pictures, data_dir=tmp_path / "data", skip_damaged=True)
    assert sum(dataset.examples.values()) == 7
    assert "left out: damaged (3)" in dataset.notes[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": ["cat"] * 10}, "has training images of only one class: cat. Add rows"),
        ({"label": [*LABELS * 4, "cat", None]}, "the table has no label in row 9. Add the label, or remove the row."),
        ({"label": [*LABELS * 4, "cat", float("nan")]}, "has no label in row 9"),
        ({"label": [0.5] * 10}, "has a label in row 0 that is neither a string nor an integer: 0.5. Convert"),
        ({"label": [[0, 1]] * 10}, "neither a string nor an integer: [0, 1]"),
        (
            {"label": [*LABELS * 4, "cat", " dog"]},
            "unsupported name of a class in the table: ' dog'. Use a name in UTF-8",
        ),
        ({"label": LABELS}, "10 paths have 2 labels. Give one label for each path."),
        ({"path": [5] * 10}, "has a value in row 0 that is not a path: 5. Give paths"),
        ({"path": [], "label": []}, "the table has no rows. Add a row"),
        ({"split": ["train"] * 9 + ["dev"]}, "has an unknown split in row 9: 'dev'. Use train, validation or test."),
        ({"split": ["train"] * 9 + [None]}, "has no split in row 9"),
        ({"split": ["train"] * 10}, "has no rows of the split test. Add rows"),
        ({"split": ["test"] * 10}, "has no rows of the split train. Add rows"),
        ({"split": ["train", "test"] * 5}, "has test images but no training images of class 'dog'"),
    ],
)
def test_mistakes_in_a_table_are_told_in_one_line(change, says, pictures, table, tmp_path):
    message = refusal(lambda: from_table({**table, **change}, root=pictures, data_dir=tmp_path / "data"))
    assert says in message
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image_column": "file"}, "has no column 'file'. The columns are 'path', 'label'."),
        ({"split_column": "labels"}, "has no column 'labels'. The columns are 'path', 'label'. Did you mean 'label'?"),
        ({"class_names": ["cat", "dgo"]}, "in row 1 that is not in class_names: 'dog'. Did you mean 'dgo'?"),
        (
            {"class_names": ["cat", "dog", "cow"]},
            "has no training images of class 'cow'. Add training images, or remove it",
        ),
        ({"class_names": ["cat", "dog", "cat"]}, "class_names has the same name twice: 'cat'"),
        ({"class_names": "catdog"}, "class_names is a string"),
        ({"class_names": [0, 1]}, "class_names has a name that is not a string: 0"),
        ({"labels": LABELS * 5}, "labels are given, but the table has columns"),
        ({"test": 0}, "test is not a fraction between 0 and 1: 0. Give a fraction"),
        ({"test": "half"}, "test is not a fraction between 0 and 1: 'half'"),
        ({"validation": float("nan")}, "validation is not a fraction between 0 and 1: nan"),
        ({"test": 0.5, "validation": 0.5}, "no training images are left: test is 0.5 and validation 0.5"),
        ({"seed": 0.5}, "seed is not an integer: 0.5"),
        ({"root": "nowhere"}, "root does not exist: nowhere"),
    ],
)
def test_mistakes_in_the_arguments_are_told_in_one_line(options, says, pictures, table, tmp_path):
    assert says in refusal(lambda: from_table(table, **{"root": pictures, "data_dir": tmp_path, **options}))


def test_mistakes_in_lists_are_told_in_one_line(pictures, table):
    paths = table["path"]
    for arguments, says in (
        ((paths,), "labels are missing"),
        (
            ("pictures.csv",),
            "the table is a path: pictures.csv. "
            "Pass a table object, such as a DataFrame, or call open_dataset('csv:FILE')",
        ),
        ((paths, "cat"), "labels is not a list of values, but of type str"),
        ((5, [1]), "the list of paths is not a list of values, but of type int"),
        (({"path": paths, "label": dict(enumerate(paths))},), "column 'label' is not a list of values"),
        ((paths, [0, 1] * 4 + [0, 2]), None),
    ):
        if says is None:
            message = refusal(lambda: from_table(*arguments, root=pictures, class_names=LABELS))  # noqa: B023
            assert "has a label out of range in row 9: 2. Use 0 to 1" in message
        else:
            assert says in refusal(lambda: from_table(*arguments, root=pictures))  # noqa: B023
    assert "split_column is 'x', but the table is a list of paths" in refusal(
        lambda: from_table(paths, LABELS * 5, split_column="x")
    )
    assert "validation is 0.2, but the table has rows of the split validation" in refusal(
        lambda: from_table(
            {**table, "split": ["train", "train", "val", "val", "test"] * 2}, root=pictures, validation=0.2
        )
    )
    message = refusal(lambda: from_table({"img": paths, "y": paths}, root=pictures))
    assert "has no column of images (path, image, file, filename, filepath). The columns are 'img', 'y'." in message


def write_csv(folder, table, separator=",", **options):
    lines = [separator.join(table), *map(separator.join, zip(*table.values(), strict=True))]
    (folder / "images.csv").write_text("\n".join(lines) + "\n", **options)
    return f"csv:{folder / 'images.csv'}"


def test_a_file_of_a_table_is_a_dataset_by_its_name(pictures, table, tmp_path):
    absolute = {"path": [str(pictures / path) for path in table["path"]], "label": table["label"]}
    name = write_csv(tmp_path, absolute)
    expected = contents(from_table(absolute, data_dir=tmp_path / "data"))
    dataset = open_dataset(name, tmp_path / "data")
    assert dataset.name == name
    assert contents(dataset) == expected
    for separator, encoding in (("\t", "utf-8-sig"), (";", "utf-8")):
        assert contents(open_dataset(write_csv(tmp_path, absolute, separator, encoding=encoding), tmp_path)) == expected


def test_values_may_be_quoted_and_lines_blank(images, tmp_path):
    for index, name in enumerate(["a,1.png", "b 2.png", "é.png", 'q"r.png']):
        images.write_image(tmp_path / name, index)
    rows = ["", "Label, Image ,Split", 'cat,"a,1.png",train', "dog , b 2.png,train", " , , ", "cat,é.png,test"]
    (tmp_path / "t.csv").write_text("\r\n".join([*rows, 'dog,"q""r.png",test']), encoding="utf-8", newline="")
    dataset = open_dataset(f"csv:{tmp_path / 't.csv'}", tmp_path / "data")
    assert dataset.examples == {"train": 2, "test": 2}
    assert dataset.class_names == ("cat", "dog")
    assert [label for _, label in contents(dataset)["test"]] in (["cat", "dog"], ["dog", "cat"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has no rows. Add a line of column names"),
        ("path,label\n", "has no rows"),
        ("0.png,cat\n1.png,dog\n", "has no column of images (path, "),
        ("path,label\n0.png,cat\n1.png\n", "line 3 of {} has 1 value instead of 2. Quote values"),
        ('path,label\n0.png,cat\n"1.png,dog\n', "cannot read line 3 of {}: unexpected end of data. Correct the line."),
        ("path,label,label\n0.png,cat,dog\n", "has several columns with the name 'label'"),
        ("path,,label\n0.png,,dog\n", "has a column without a name"),
        ("path,label\n0.png,cat\n1.png,\n", "{} has no label in line 3. Add the label, or remove the row."),
        ("path,label\n0.png,cat\nx.png,dog\n", "{} has 1 missing file in "),
        ("path,lable\n0.png,cat\nx.png,dog\n", "Did you mean 'lable'?"),
        (b"path,label\n0.png,caf\xe9\n", "{} is not UTF-8 at byte 20. Save the file as UTF-8."),
        ("path,label\n0.png,cat\n".encode("utf-16"), "{} is not UTF-8 at byte 0."),
    ],
)
def test_mistakes_in_a_file_are_told_in_one_line(content, says, tmp_path):
    path = tmp_path / "images.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "0.png").touch()
    (tmp_path / "1.png").touch()
    assert says.format(path) in refusal(lambda: open_dataset(f"csv:{path}", tmp_path / "data"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("path", ["", "nowhere.csv", ".", "/dev/zero", "/proc/self/maps", "http://x/y.csv", "a\0b"])
def test_a_path_that_is_no_file_is_refused(path, tmp_path):
    assert "csv file" in refusal(lambda: open_dataset(f"csv:{path}", tmp_path)).lower()


def test_a_file_without_its_prefix_is_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets.csv").write_text("path,label\n")
    assert refusal(lambda: open_dataset("pets.csv")) == "unknown dataset 'pets.csv'; did you mean 'csv:pets.csv'?"


def test_the_copy_is_made_again_when_the_table_or_a_file_changes(images, tmp_path):
    for index in range(4):
        images.write_image(tmp_path / f"{index}.png", index)
    columns = {"path": [f"{index}.png" for index in range(4)], "label": ["cat", "cat", "dog", "dog"]}
    first = open_dataset(write_csv(tmp_path, columns), tmp_path / "data").directory
    made = (first / "dataset_info.json").stat().st_mtime_ns
    assert open_dataset(write_csv(tmp_path, columns), tmp_path / "data").directory == first
    assert (first / "dataset_info.json").stat().st_mtime_ns == made
    columns["label"] = ["cat", "dog", "cat", "dog"]
    second = open_dataset(write_csv(tmp_path, columns), tmp_path / "data").directory
    images.write_image(tmp_path / "0.png", 100)
    os.utime(tmp_path / "0.png", ns=(1, 1))
    third = open_dataset(write_csv(tmp_path, columns), tmp_path / "data")
    assert len({first, second, third.directory}) == 3
    stored = {decode(image, 3).tobytes() for images in contents(third).values() for image, _ in images}
    assert np.asarray(Image.open(tmp_path / "0.png")).tobytes() in stored


def test_a_table_is_prepared_by_its_name(pictures, table, tmp_path):
    columns = {"path": [str(pictures / path) for path in table["path"]], "label": table["label"]}
    columns["split"] = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    name = write_csv(tmp_path, columns)
    prepared = prepare(name, data_dir=tmp_path / "data")
    assert prepared.examples == {"train": 6, "validation": 2, "test": 2}
    assert open_dataset(name, tmp_path / "data").directory == prepared.folder
    assert "--force does not apply to csv:" in refusal(lambda: prepare(name, data_dir=tmp_path, force=True))
