"""The first table of a process is read intact, although TFDS is imported for it."""

import os
import pathlib
import subprocess
import sys

READING_BEFORE_TFDS = """
import sys

from jaxcnn.data import from_table
from jaxcnn.data.imagefolder import reading

read = reading._read


def checked(file):
    assert "tensorflow_datasets" in sys.modules, "TFDS is imported while threads read images"
    return read(file)


reading._read = checked
from_table({"path": ["0.png", "1.png", "2.png", "3.png"], "label": [0, 1, 0, 1]}, data_dir=sys.argv[1])
"""


def test_tfds_is_imported_before_threads_decode_images(images, tmp_path):
    """TFDS replaces `__import__` while it is imported, and Pillow imports its plugins when it needs them."""
    for index in range(4):
        images.write_image(tmp_path / f"{index}.png", index)
    command = [sys.executable, "-c", READING_BEFORE_TFDS, str(tmp_path / "prepared")]
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[3])}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-2000:]
