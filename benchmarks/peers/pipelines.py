"""One input pipeline in one process: prints its images per second of wall-clock time and of CPU time.

`benchmarks/input.py` runs these and compares them. CPU time is the better figure on a shared machine.

    python -m benchmarks.peers.pipelines PIPELINE FOLDER SECONDS [WORKERS]

FOLDER contains `files/CLASS/*` (images), `size` (crop at random and resize to this size; 0: keep images as they are)
and, for jaxcnn and grain, `data` (the same images as ArrayRecord). All pipelines make shuffled uint8 batches of 256, or
of 64 if images are cropped, in host memory. A pipeline whose library is not installed prints one line that says so.
"""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BATCH = {True: 64, False: 256}
"""Batch size with and without a crop."""


def jaxcnn(folder: Path, size: int, workers: int) -> Iterator[int]:
    from jaxcnn.data import open_dataset, open_pipeline

    names = [path.name for path in (folder / "data").iterdir()]
    if "cifar10" in names:
        dataset = open_dataset("cifar10", folder / "data")
    else:
        dataset = open_dataset(f"imagefolder:{folder / 'files'}", folder / "data")
    pipeline = open_pipeline(
        dataset,
        BATCH[bool(size)],
        geometry=dataset.geometry(size) if size else None,
        augment=["resized_crop"] if size else [],
        residence="disk",
        workers=workers,
    )
    for batch in pipeline.batches():
        yield len(batch["image"])


def grain_loader(folder: Path, size: int, workers: int) -> Iterator[int]:
    import io

    import absl.flags
    import grain
    import numpy as np
    import tensorflow_datasets as tfds
    from PIL import Image

    absl.flags.FLAGS(sys.argv[:1])  # grain's worker processes require parsed flags
    (directory,) = (path for name in (folder / "data").iterdir() for path in name.iterdir())
    builder = tfds.builder_from_directory(directory)
    skip = {"image": tfds.decode.SkipDecoding()}
    source: Any = builder.as_data_source(split="train", decoders=skip)  # pyright: ignore[reportCallIssue]

    class Decode(grain.transforms.RandomMap):
        def random_map(self, element: Any, rng: Any) -> Any:
            image = Image.open(io.BytesIO(element["image"])).convert("RGB")
            if size:
                image = crop(image, size, rng)
            return {"image": np.asarray(image), "label": element["label"]}

    sampler = grain.samplers.IndexSampler(
        len(source), shard_options=grain.sharding.NoSharding(), shuffle=True, num_epochs=None, seed=0
    )
    operations = [Decode(), grain.transforms.Batch(BATCH[bool(size)], drop_remainder=True)]
    loader = grain.DataLoader(data_source=source, sampler=sampler, operations=operations, worker_count=workers)
    for batch in loader:
        yield len(batch["image"])


def crop(image: Any, size: int, random: Any) -> Any:
    """Return what torchvision's RandomResizedCrop makes of a Pillow image."""
    import math

    from PIL import Image

    width, height = image.size
    for _ in range(10):
        area = height * width * random.uniform(0.08, 1.0)
        shape = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        columns, rows = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < columns <= width and 0 < rows <= height:
            left, top = random.integers(width - columns + 1), random.integers(height - rows + 1)
            break
    else:
        left, top, columns, rows = 0, 0, width, height
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + columns, top + rows))


def torch_loader(folder: Path, size: int, workers: int) -> Iterator[int]:
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]
    from PIL import Image

    files = sorted((folder / "files" / "train").rglob("*.*"))

    class Files(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Any:
            image = Image.open(files[index]).convert("RGB")
            if size:
                image = crop(image, size, np.random.default_rng())
            return torch.from_numpy(np.array(image)), 0

    loader = torch.utils.data.DataLoader(
        Files(), BATCH[bool(size)], shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True
    )
    while True:
        for images, _ in loader:
            yield len(images)


def tf_data(folder: Path, size: int, workers: int, antialias: bool = True) -> Iterator[int]:
    import tensorflow as tf  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    records = folder / "tf.records"
    if not records.exists():
        with tf.io.TFRecordWriter(str(records)) as writer:
            for path in sorted((folder / "files" / "train").rglob("*.*")):
                writer.write(path.read_bytes())

    def decode(content: Any) -> Any:
        if not size:
            return tf.ensure_shape(tf.io.decode_png(content, 3), (32, 32, 3))
        box = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(content), box, 0, 0.1, (3 / 4, 4 / 3), (0.08, 1.0), 10, True
        )
        window = tf.stack([begin[0], begin[1], extent[0], extent[1]])
        image = tf.image.decode_and_crop_jpeg(content, window, channels=3)
        resized = tf.image.resize(image, (size, size), antialias=antialias)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)

    dataset = tf.data.TFRecordDataset(str(records)).repeat().shuffle(1024)
    dataset = dataset.map(decode, num_parallel_calls=workers).batch(BATCH[bool(size)], drop_remainder=True)
    for images in dataset.prefetch(2).as_numpy_iterator():
        yield len(images)


PIPELINES: dict[str, Callable[[Path, int, int], Iterator[int]]] = {
    "jaxcnn": jaxcnn,
    "grain DataLoader": grain_loader,
    "torch DataLoader": torch_loader,
    "tf.data": tf_data,
    # A different transform: TensorFlow's default, with which shrunken images alias.
    "tf.data, not antialiased": functools.partial(tf_data, antialias=False),
}


def main() -> None:
    name, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    workers = int(sys.argv[4]) if len(sys.argv) > 4 else 2
    size = int((folder / "size").read_text())
    try:
        batches = PIPELINES[name](folder, size, workers)
        for _ in range(4):  # batches that may be ready before the measurement
            next(batches)
    except ImportError as error:
        print(f"not installed: {error.name}")
        return
    images, started, busy = 0, time.perf_counter(), _cpu_seconds()
    while time.perf_counter() - started < seconds:
        images += next(batches)
    print(images / (time.perf_counter() - started), images / (_cpu_seconds() - busy))


def _cpu_seconds() -> float:
    """Return the CPU time of this process and its children so far, from /proc."""
    ticks, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:  # the process has ended
            continue
        pid = int(path.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(ticks.get(pid, 0) for pid in ours) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
