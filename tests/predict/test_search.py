"""Image files are found at any depth and judged by their content."""

import os

import pytest

from jaxcnn import predict
from jaxcnn.errors import UsageError

IMAGES = ["black/1.png", "black/deep/2.jpg", "black/wrong", "other/4.png", "white/3.bmp"]


def test_images_are_found_at_any_depth_without_hidden_and_other_files(tree):
    assert [str(path.relative_to(tree)) for path in predict.find_images([tree])] == IMAGES


def test_hidden_files_are_counted_and_folders_of_systems_are_not_searched(tree):
    search = predict.Search([tree])
    names = [str(candidate.path.relative_to(tree)) for candidate in search]
    assert names == ["Thumbs.db", *IMAGES, "white/notes.txt"]
    assert search.hidden == 1


def test_links_are_followed_but_no_folder_is_read_twice(tree, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "tree").symlink_to(tree)
    (tree / "loop").symlink_to(tree)
    (tree / "gone.png").symlink_to(tree / "nowhere")
    names = [candidate.path.name for candidate in predict.Search([tmp_path / "links"])]
    assert names.count("1.png") == 1
    assert "gone.png" in names  # reported when it is read


def test_links_into_the_kernels_folders_are_reported_and_not_followed(tree):
    (tree / "process").symlink_to("/proc/self")
    search = predict.Search([tree])
    assert all("process" not in candidate.path.parts for candidate in search)
    assert (tree / "process", "a folder of the operating system") in search.unreadable
    with pytest.raises(UsageError, match="a folder of the operating system"):
        predict.find_images([tree / "process"])


def test_pipes_are_neither_read_nor_an_error(tree):
    os.mkfifo(tree / "pipe.png")
    assert len(predict.find_images([tree])) == 5
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        predict.Search([tree / "pipe.png"])


@pytest.mark.parametrize("name", ["none.png", "x" * 300, "~nobody5/x", "a\nb", "nul\0"])
def test_a_path_that_does_not_exist_is_one_line(name):
    with pytest.raises(UsageError, match="does not exist") as error:
        predict.Search([name])
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


def test_paths_without_images_are_refused(tree):
    with pytest.raises(UsageError, match="no images found in"):
        predict.find_images([tree / "empty"])
    with pytest.raises(UsageError, match="no images given"):
        predict.find_images([])


def test_the_closest_folder_with_the_name_of_a_class_is_the_label(tree):
    labels = {
        str(candidate.path.relative_to(tree)): candidate.label(["black", "white"])
        for candidate in predict.Search([tree])
    }
    assert labels["black/deep/2.jpg"] == labels["black/wrong"] == "black"
    assert labels["white/3.bmp"] == "white"
    assert labels["other/4.png"] is labels["Thumbs.db"] is None
    (given,) = predict.Search([tree / "black" / "1.png"])
    assert given.label(["black", "white"]) is None  # no tree was searched
