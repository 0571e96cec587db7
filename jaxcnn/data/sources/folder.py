"""Dataset of a folder of images, for use in Python."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxcnn.data import imagefolder
from jaxcnn.data.dataset import Dataset
from jaxcnn.data.datasets import data_folder, open_copy
from jaxcnn.data.imagefolder.labels import check_names
from jaxcnn.errors import UsageError, closest, shortened

NAME = "folder"
"""Name of the dataset of a folder if the name `imagefolder:PATH` would open a different dataset."""


def from_folder(
    path: str | os.PathLike[str],
    *,
    test: float = 0.2,
    validation: float | None = None,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    skip_damaged: bool = False,
) -> Dataset:
    """Return a dataset of a folder with one folder of images for each class.

    `jaxcnn.data.imagefolder` describes the accepted layouts. The folders train, val and test contain the training,
    validation and test splits. If there is no test folder, the folder val is the test split. The images are copied once
    to the folder of prepared datasets. When a file or the division into splits changes, a new copy replaces the old
    copy.

    Args:
      path: folder of images. The folder contains class folders, or folders train, test and val that contain class
        folders.
      test: fraction of the images of each class in the test split, if there is no test folder. A class with two or more
        images has at least one test image. The choice of test images depends on the file names and the seed.
      validation: fraction of the images of each class in the validation split, if there is no folder of validation
        images. If there is a test folder, `validation` is a fraction of the training images. Default: no validation
        split.
      seed: random seed of the choice of test and validation images.
      class_names: names of all classes, in the order of the labels. Default: the names of the class folders, sorted.
      data_dir: folder of prepared datasets. Default: `$TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
      skip_damaged: whether to skip damaged images. By default, damaged images raise an error.

    Returns:
      The dataset. The name of the dataset is `imagefolder:PATH` if `open_dataset` opens the same dataset by this name,
      otherwise "folder".

    Raises:
      UsageError: if `path` is not a folder or has none of the accepted layouts, or images are damaged (the error names
        all damaged images). `UsageError` is also raised if a split is empty, a class has no training images, or there
        are fewer than two classes. `UsageError` is also raised if `class_names` are not the names of the class folders,
        a fraction or the seed is invalid, or both the folder and `validation` define a validation split.
      RunError: if the copy cannot be written, for example because the disk is full.

    Example:
      >>> from jaxcnn.data import from_folder
      >>> from_folder("pictures", test=1.5)
      Traceback (most recent call last):
      ...
      jaxcnn.errors.UsageError: test is not a fraction between 0 and 1: 1.5. Give a fraction, such as 0.2.
    """
    division = imagefolder.make_division(test, validation, seed)
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"path is not a path: {shortened(repr(path))}. Give the path of a folder of images.")
    root, text = data_folder(data_dir), os.fsdecode(path)
    prepared = imagefolder.prepare(text, root, division=division, skip_damaged=skip_damaged)
    name = f"{imagefolder.PREFIX}{text}" if prepared.is_default else NAME
    dataset = open_copy(name, root, prepared)
    if class_names is None or (*class_names,) == dataset.class_names:
        return dataset
    check_names(class_names)
    for wrong in [name for name in class_names if name not in dataset.class_names]:
        near = closest(wrong, dataset.class_names)
        hint = f"Did you mean {near!r}?" if near else f"The classes are {shortened(', '.join(dataset.class_names))}."
        raise UsageError(f"class_names has a name without a folder: {wrong!r}. {hint}")
    missing = next((name for name in dataset.class_names if name not in class_names), None)
    if missing is not None:
        raise UsageError(f"class_names lacks a class folder: {missing!r}. Add the name of this folder.")
    return replace(dataset.with_classes(class_names), name=NAME)
