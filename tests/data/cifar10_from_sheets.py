"""Turns CIFAR-10 as sheets of PNG into the authors' binary batches.

    python tests/data/cifar10_from_sheets.py SHEETS OUT

A sheet `data_batch_1.png` ... `test_batch.png` is 1024 pixels wide and has one image of 32 x 32 in each row; the labels
are in `train_lables.json` and `test_lables.json`, spelt so. `jaxcnn prepare cifar10 --source OUT` checks the sums.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def convert(sheets: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    Image.MAX_IMAGE_PIXELS = 1024 * 10_000
    train = json.loads((sheets / "train_lables.json").read_text())
    test = json.loads((sheets / "test_lables.json").read_text())
    batches = [(f"data_batch_{i + 1}", train[10_000 * i : 10_000 * (i + 1)]) for i in range(5)]
    for name, labels in [*batches, ("test_batch", test)]:
        pixels = np.asarray(Image.open(sheets / f"{name}.png").convert("RGB")).reshape(-1, 1024, 3)
        planes = pixels.transpose(0, 2, 1).reshape(-1, 3072)
        records = np.concatenate([np.array(labels, np.uint8)[:, None], planes], axis=1)
        (out / f"{name}.bin").write_bytes(records.tobytes())


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
