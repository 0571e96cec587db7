"""The data set `fashion_mnist_mini`: how the images inside the package are drawn from Fashion-MNIST.

10,000 training and 2,000 test images of Fashion-MNIST, as many of each class, drawn at random without
replacement from the training and the test split, and kept as a TFDS data set in ArrayRecord files. Reading it
takes nothing from this module: TFDS restores the data set from its files. It is made anew from the four
original files with

    python -m jaxcnn.data.fashion_mnist_mini --source DIR --out DIR

Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms", 2017, arXiv:1708.07747, https://github.com/zalandoresearch/fashion-mnist (MIT licence).
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

from jaxcnn.data._original_sums import SUMS
from jaxcnn.data.datasets import BUNDLED_DIR
from jaxcnn.data.originals import parse_idx, unpack
from jaxcnn.errors import UsageError

NAME = "fashion_mnist_mini"
VERSION = "1.0.0"
SEED = 20170825  # any number would do; it is the day of the paper
PER_CLASS: Mapping[str, int] = {"train": 1000, "test": 200}
"""How many images of each class a split gets."""

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
"""The original files of each split, without `.gz`: images and labels."""

SHA256: Mapping[str, str] = {name: sum_ for name, sum_ in SUMS["fashion_mnist"].items() if not name.endswith(".gz")}
"""SHA-256 of the unpacked content of each original file."""


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an idx file of unsigned bytes, packed with gzip or not: images `[N, H, W]`, labels `[N]`.

    Raises:
      UsageError: a file that is missing, cut short, or something else.
    """
    return parse_idx(Path(path), _content(Path(path)))


def draw(labels: np.ndarray, per_class: int, seed: int = SEED) -> np.ndarray:
    """Indices, ascending, of `per_class` random examples of each class, without replacement.

    Args:
      labels: `[N]`, from 0 to 9.

    Returns:
      `[10 * per_class]`.

    Raises:
      UsageError: a class with too few examples.
    """
    # Not `default_rng`: its methods may draw otherwise in a later NumPy, while RandomState's are frozen.
    random = np.random.RandomState(seed)
    chosen = []
    for label, name in enumerate(CLASS_NAMES):
        candidates = np.flatnonzero(labels == label)
        if len(candidates) < per_class:
            raise UsageError(f"class {name!r} has {len(candidates)} examples; {per_class} are to be drawn")
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
    """Draws the data set from the four files in `source` and writes it to `out/fashion_mnist_mini/1.0.0`.

    What is there in the end is whole or, after an error, what was there before.

    Args:
      source: folder of the four original idx files, packed with gzip or not.
      out: folder of prepared data sets, a `data_dir` of TFDS.
      per_class: how many images of each class the splits "train" and "test" get.
      verify: whether the files must be those of Fashion-MNIST, and not others in the same format.
      force: replace the data set if there is one.

    Returns:
      The folder of the data set.

    Raises:
      UsageError: files that are missing, damaged or wrong, or a data set that is there already.
    """
    out = Path(out)
    target = out / NAME / VERSION
    if target.exists() and not force:
        raise UsageError(f"{target} exists already; --force replaces it")
    # All that can be wrong with the source is found before anything is written.
    splits = {split: _draw_split(Path(source), split, count, verify) for split, count in per_class.items()}

    out.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that moving it into place is one rename in one file system.
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{NAME}-") as work:
        prepared = _write(splits, Path(work))
        target.parent.mkdir(exist_ok=True)
        for notes in ("LICENSE", "README.md"):
            if not (target.parent / notes).exists():
                shutil.copyfile(BUNDLED_DIR / NAME / notes, target.parent / notes)
        if target.exists():
            _exchange(prepared, target, Path(work) / "replaced")
        else:
            prepared.rename(target)
    return target


class _Split(NamedTuple):
    """Examples of a split: images `[N, H, W]`, labels `[N]`, their indices `[N]` in the original split."""

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


def _content(path: Path) -> bytes:
    try:
        return unpack(path, path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read, or is damaged: {error}") from error


def _read_original(folder: Path, file: str, verify: bool) -> np.ndarray:
    candidates = (folder / f"{file}.gz", folder / file)
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise UsageError(f"{candidates[0]} does not exist; the four files of Fashion-MNIST are at {HOMEPAGE}")
    content = _content(path)
    array = parse_idx(path, content)  # before the sum: what is cut short can be told more clearly
    sha256 = hashlib.sha256(content).hexdigest()
    if verify and sha256 != SHA256[file]:
        raise UsageError(
            f"{path} is not the original file of Fashion-MNIST: "
            f"SHA-256 of its unpacked content is {sha256}, not {SHA256[file]}"
        )
    return array


def _draw_split(folder: Path, split: str, per_class: int, verify: bool) -> _Split:
    images_file, labels_file = ORIGINALS[split]
    images = _read_original(folder, images_file, verify)
    labels = _read_original(folder, labels_file, verify)
    if images.ndim != 3 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        size = f"[N, {IMAGE_SIZE}, {IMAGE_SIZE}]"
        raise UsageError(f"{images_file} in {folder} has the shape {images.shape}; images must be {size}")
    if labels.shape != images.shape[:1]:
        raise UsageError(f"{labels_file} in {folder} has the shape {labels.shape} for {len(images)} images")
    if labels.size and labels.max() >= len(CLASS_NAMES):
        raise UsageError(f"{labels_file} in {folder} has the label {labels.max()}; the last class is 9")
    indices = draw(labels, per_class)
    return _Split(images[indices], labels[indices], indices)


def _write(splits: Mapping[str, _Split], data_dir: Path) -> Path:
    """Writes the data set below `data_dir` and returns its folder."""
    # Here, since importing them takes longer than the rest of the package's data handling.
    import tensorflow_datasets as tfds
    from PIL import Image
    from tensorflow_datasets.core import registered, writer
    from tensorflow_datasets.proto import tf_example_pb2

    def in_order(example: bytes) -> bytes:
        message = tf_example_pb2.Example.FromString(example)  # pyright: ignore[reportAttributeAccessIssue]
        return message.SerializeToString(deterministic=True)

    class SameBytesWriter(writer.ExampleWriter):
        """Writes the features of an example in a fixed order, which otherwise varies with the process."""

        def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
            return super().write(path, ((key, in_order(example)) for key, example in examples))

    # Unregistered: the data set is to be read from its files, also where this module is not imported.
    with registered.skip_registration():

        class FashionMnistMini(tfds.core.GeneratorBasedBuilder):
            # It is recorded in the data set, and would be "__main__" where this file is run as a script.
            __module__ = "jaxcnn.data.fashion_mnist_mini"
            VERSION = tfds.core.Version(VERSION)

            def _info(self) -> tfds.core.DatasetInfo:
                counts = {split: f"{len(examples.labels):,}" for split, examples in splits.items()}
                return tfds.core.DatasetInfo(
                    builder=self,
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
                return SameBytesWriter(file_format=tfds.core.FileFormat.ARRAY_RECORD)

            def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
                return {split: self._generate_examples(examples) for split, examples in splits.items()}

            def _generate_examples(self, examples: _Split) -> Iterator[tuple[str, dict[str, Any]]]:
                for image, label, index in zip(*examples, strict=True):
                    # A PIL image, since TFDS encodes arrays with TensorFlow. TFDS orders examples by a hash
                    # of the key, so that the order is random and always the same.
                    yield f"{index:05d}", {"image": Image.fromarray(image), "label": int(label)}

    builder = FashionMnistMini(data_dir=data_dir, file_format="array_record")
    # What TFDS prints, progress bars included, names the temporary folder. Its errors are exceptions.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False, num_shards=1),
        )
    return Path(builder.data_dir)


def _exchange(new: Path, old: Path, aside: Path) -> None:
    """Puts `new` in the place of `old`, which goes to `aside`, or comes back if that fails."""
    old.rename(aside)
    try:
        new.rename(old)
    except BaseException:
        aside.rename(old)
        raise


def main(args: Sequence[str] | None = None) -> int:
    """Makes the data set anew; returns the exit status: 0, or 2 after a mistake told in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.data.fashion_mnist_mini",
        description="Draws fashion_mnist_mini from the four files of Fashion-MNIST.",
    )
    parser.add_argument("--source", type=Path, required=True, help="folder of the four idx files")
    parser.add_argument("--out", type=Path, default=BUNDLED_DIR, help="folder of data sets (the package's)")
    parser.add_argument("--force", action="store_true", help="replace the data set if it is there already")
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
