"""Paths from users: every one that cannot work is refused in one line, before anything is read or written."""

import os

import pytest

from jaxcnn.errors import UsageError
from jaxcnn.local_path import check_path, is_possible, local_folder, local_path

REFUSED = {
    "": "--out is empty",
    "gs://bucket/run": "--out is a URL: gs://bucket/run",
    "https://example.com/x": "--out is a URL",
    "~no_such_user_here/x": "--out names an unknown home directory: ~no_such_user_here/x",
    "a" * 300: "--out is not a path: aaa",
    "x/" + "é" * 128: "--out is not a path",
    "a/" * 3000: "--out is not a path",
    "a\0b": r"--out is not a path: a\\x00b",
    "\ud800": r"--out is not a path: \\ud800",
    "/dev/null/x": r"--out cannot be used: /dev/null/x \(Not a directory\)",
}


@pytest.mark.parametrize(("path", "says"), REFUSED.items(), ids=map(repr, range(len(REFUSED))))
def test_a_path_that_cannot_work_is_refused_in_one_line(path, says):
    with pytest.raises(UsageError, match=says) as refusal:
        local_path("--out", path)
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 400


def test_a_path_that_works_is_expanded_and_need_not_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("--out", "~/new/file") == tmp_path / "new" / "file"
    assert local_path("--out", "a" * 255).name == "a" * 255
    undecodable = os.fsdecode(b"na\xefve")
    (tmp_path / undecodable).touch()
    assert local_path("--out", tmp_path / undecodable).exists()
    assert not list(tmp_path.glob("new"))


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--workdir is not a folder"):
        local_folder("--workdir", tmp_path / "file")
    assert local_folder("--workdir", tmp_path) == tmp_path
    assert local_folder("--workdir", tmp_path / "new") == tmp_path / "new"


def test_the_text_is_checked_without_the_file_system():
    check_path("workdir", "~no_such_user_here/x")
    check_path("workdir", "C:/x")
    assert is_possible("/dev/null/x")
