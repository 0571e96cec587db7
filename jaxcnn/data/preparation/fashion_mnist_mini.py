"""Create `fashion_mnist_mini`, the dataset inside the package, from the files of Fashion-MNIST.

The dataset has 10,000 training and 2,000 test images of Fashion-MNIST, the same number of each class. The images are
drawn at random without replacement from the training and the test split, and stored as a TFDS dataset in ArrayRecord
files. Reading the dataset does not need this module, because TFDS restores the dataset from its files. To create the
dataset again from the four original files, run:

    python -m jaxcnn.data.preparation.fashion_mnist_mini --source DIR --out DIR

References:
  H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
  2017, arXiv:1708.07747, https://github.com/zalandoresearch/fashion-mnist (MIT license).
"""

import argparse
import contextlib
import hashlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data.datasets import BUNDLED_DIR
from jaxcnn.data.preparation._original_checksums import SUMS
from jaxcnn.data.preparation.originals import parse_idx, unpack
from jaxcnn.errors import UsageError

NAME = "fashion_mnist_mini"
VERSION = "1.0.0"
SEED = 20170825  # arbitrary: the date of the paper
PER_CLASS: Mapping[str, int] = {"train": 1000, "test": 200}
"""Number of images of each class, by split."""

IMAGE_SIZE = 28
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

HOMEPAGE = "https://github.com/zalandoresearch/fashion-mnist"
CITATION = """\
@article{xiao2017fashion,
  author  = {Han Xiao and Kashif Rasul and Roland Vollgraf},
  title   = {Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  journal = {CoRR},
  volume  = {abs/1708.07747},
  year    = {2017},
  url     = {https://arxiv.org/abs/1708.07747},
}"""

ORIGINALS: Mapping[str, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""Names of the original image file and label file of each split, without the suffix `.gz`."""

SHA256: Mapping[str, str] = {
    name: checksum for name, checksum in SUMS["fashion_mnist"].items() if not name.endswith(".gz")
}
"""SHA-256 of the unpacked content of each original file."""


def read_idx(path: str | Path) -> np.ndarray:
    """Read an idx file of unsigned bytes, compressed with gzip or not.

    Returns:
      Images, uint8 `[N, H, W]`, or labels, uint8 `[N]`.

    Raises:
      UsageError: if the file is missing or truncated, or is not an idx file.
    """
    return parse_idx(Path(path), _read_unpacked(Path(path)))


def draw(labels: np.ndarray, per_class: int, seed: int = SEED) -> np.ndarray:
    """Draw `per_class` random examples of each class without replacement.

    Args:
      labels: class of each example, `[N]`, from 0 to 9.
      per_class: number of examples of each class.
      seed: random seed for the choice of examples.

    Returns:
      Indices of the examples in ascending order, `[10 * per_class]`.

    Raises:
      UsageError: if a class has too few examples.
    """
    # Unlike `default_rng`, RandomState is guaranteed to draw the same numbers in every version of NumPy.
    random = np.random.RandomState(seed)
    chosen = []
    for label, name in enumerate(CLASS_NAMES):
        candidates = np.flatnonzero(labels == label)
        if len(candidates) < per_class:
            raise UsageError(
                f"class {name!r} has too few examples: {len(candidates)}. "
                f"Draw at most {len(candidates)} examples of each class, not {per_class}."
            )
        chosen.append(random.permutation(candidates)[:per_class])
    return np.sort(np.concatenate(chosen))


def prepare(
    source: str | Path,
    out: str | Path = BUNDLED_DIR,
    *,
    per_class: Mapping[str, int] = PER_CLASS,
    verify: bool = True,
    force: bool = False,
) -> Path:
    """Draw the dataset from the four original files in `source`, and write it to `out/fashion_mnist_mini/1.0.0`.

    The dataset is moved into place when it is complete. After an error, the previous dataset is intact.

    Args:
      source: folder of the four original idx files, compressed with gzip or not.
      out: folder of prepared datasets, a `data_dir` of TFDS.
      per_class: number of images of each class in the splits "train" and "test".
      verify: whether to require the checksums of Fashion-MNIST.
      force: whether to replace an existing dataset.

    Returns:
      The folder of the dataset.

    Raises:
      UsageError: if a file is missing, damaged or not the original, or the dataset exists and `force` is False.
    """
    out = Path(out)
    target = out / NAME / VERSION
    if target.exists() and not force:
        raise UsageError(f"dataset already exists: {target}. Replace the dataset with --force.")
    # Read all files before anything is written, so that errors in the source files leave no trace.
    splits = {split: _draw_split(Path(source), split, count, verify) for split, count in per_class.items()}

    out.mkdir(parents=True, exist_ok=True)
    # Create the temporary folder in the file system of the target, so that one rename moves the dataset into place.
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{NAME}-") as work:
        prepared = _write(splits, Path(work))
        target.parent.mkdir(exist_ok=True)
        for document in ("LICENSE", "README.md"):
            if not (target.parent / document).exists():
                shutil.copyfile(BUNDLED_DIR / NAME / document, target.parent / document)
        if target.exists():
            _replace(prepared, target, Path(work) / "replaced")
        else:
            prepared.rename(target)
    return target


class _Split(NamedTuple):
    """Examples of a split: images `[N, H, W]`, labels `[N]`, and indices `[N]` in the original split."""

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


def _read_unpacked(path: Path) -> bytes:
    try:
        return unpack(path, path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"file does not exist: {path}. Download the original file from {HOMEPAGE}.") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error}. Download the file again from {HOMEPAGE}.") from error


def _read_original(folder: Path, file: str, verify: bool) -> np.ndarray:
    candidates = (folder / f"{file}.gz", folder / file)
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise UsageError(f"file does not exist: {candidates[0]}. Download the four original files from {HOMEPAGE}.")
    content = _read_unpacked(path)
    # Check the format before the checksum, because errors of the format are more specific.
    array = parse_idx(path, content)
    sha256 = hashlib.sha256(content).hexdigest()
    if verify and sha256 != SHA256[file]:
        raise UsageError(
            f"{path} is not the original file of Fashion-MNIST: SHA-256 of its unpacked content is {sha256}, "
            f"expected {SHA256[file]}. Download the file again from {HOMEPAGE}."
        )
    return array


def _draw_split(folder: Path, split: str, per_class: int, verify: bool) -> _Split:
    images_file, labels_file = ORIGINALS[split]
    images = _read_original(folder, images_file, verify)
    labels = _read_original(folder, labels_file, verify)
    if images.ndim != 3 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise UsageError(
            f"{images_file} in {folder} has the wrong shape: {images.shape}. "
            f"Use images of shape [N, {IMAGE_SIZE}, {IMAGE_SIZE}]."
        )
    if labels.shape != images.shape[:1]:
        raise UsageError(
            f"{labels_file} in {folder} has the wrong shape: {labels.shape}. Use one label for each of the "
            f"{len(images)} images."
        )
    if labels.size and labels.max() >= len(CLASS_NAMES):
        raise UsageError(f"{labels_file} in {folder} has a label out of range: {labels.max()}. Use labels 0 to 9.")
    indices = draw(labels, per_class)
    return _Split(images[indices], labels[indices], indices)


def _write(splits: Mapping[str, _Split], data_dir: Path) -> Path:
    """Write the dataset below `data_dir` and return its folder."""
    # Import these packages here, because they are slow to import.
    import tensorflow_datasets as tfds
    from PIL import Image
    from tensorflow_datasets.core import registered, writer
    from tensorflow_datasets.proto import tf_example_pb2

    def with_sorted_features(example: bytes) -> bytes:
        message = tf_example_pb2.Example.FromString(example)  # pyright: ignore[reportAttributeAccessIssue]
        return message.SerializeToString(deterministic=True)

    class DeterministicWriter(writer.ExampleWriter):
        """Write the features of an example in a fixed order. The default order varies between processes."""

        def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
            return super().write(path, ((key, with_sorted_features(example)) for key, example in examples))

    # Do not register the builder, because TFDS must restore the dataset without this module, from its files.
    with registered.skip_registration():

        class FashionMnistMini(tfds.core.GeneratorBasedBuilder):
            # TFDS stores `__module__` in the dataset. The default would be "__main__" in a script.
            __module__ = "jaxcnn.data.preparation.fashion_mnist_mini"
            VERSION = tfds.core.Version(VERSION)

            def _info(self) -> tfds.core.DatasetInfo:
                counts = {split: f"{len(examples.labels):,}" for split, examples in splits.items()}
                return tfds.core.DatasetInfo(
                    builder=self,
                    # This text equals the description in the bundled dataset, so that its files can be reproduced.
                    description=(
                        f"{counts['train']} training and {counts['test']} test images of Fashion-MNIST, "
                        "as many of each of the 10 classes, drawn at random without replacement from its "
                        "training and its test split. Each example is a 28x28 greyscale image of an article "
                        "of clothing."
                    ),
                    features=tfds.features.FeaturesDict(
                        {
                            "image": tfds.features.Image(shape=(IMAGE_SIZE, IMAGE_SIZE, 1)),
                            "label": tfds.features.ClassLabel(names=list(CLASS_NAMES)),
                        }
                    ),
                    supervised_keys=("image", "label"),
                    homepage=HOMEPAGE,
                    citation=CITATION,
                )

            def _example_writer(self) -> writer.ExampleWriter:
                return DeterministicWriter(file_format=tfds.core.FileFormat.ARRAY_RECORD)

            def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
                return {split: self._generate_examples(examples) for split, examples in splits.items()}

            def _generate_examples(self, examples: _Split) -> Iterator[tuple[str, dict[str, Any]]]:
                for image, label, index in zip(*examples, strict=True):
                    # Give a PIL image, because TFDS would encode an array with TensorFlow. TFDS sorts examples by a
                    # hash of the key, so their order is random but reproducible.
                    yield f"{index:05d}", {"image": Image.fromarray(image), "label": int(label)}

    builder = FashionMnistMini(data_dir=data_dir, file_format="array_record")
    # Hide the output of TFDS, which would show the temporary folder. Errors are raised as exceptions.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False, num_shards=1),
        )
    return Path(builder.data_dir)


def _replace(new: Path, old: Path, backup: Path) -> None:
    """Move `old` to `backup` and `new` to `old`. Restore `old` if the second move fails."""
    old.rename(backup)
    try:
        new.rename(old)
    except BaseException:
        backup.rename(old)
        raise


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line. Return the exit status: 0, or 2 after an error, which is printed on one line."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.data.preparation.fashion_mnist_mini",
        description="Create fashion_mnist_mini from the four files of Fashion-MNIST.",
    )
    parser.add_argument("--source", type=Path, required=True, help="folder of the four idx files of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=BUNDLED_DIR, help="folder of datasets (default: the package)")
    parser.add_argument("--force", action="store_true", help="replace an existing dataset")
    flags = parser.parse_args(args)
    try:
        target = prepare(flags.source, flags.out, per_class=PER_CLASS, force=flags.force)
    except (UsageError, OSError) as error:
        print(f"fashion_mnist_mini: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{sum(10 * count for count in PER_CLASS.values()):,} images in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
