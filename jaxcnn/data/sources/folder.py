"""Datasets of folders of images, as objects."""

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
"""Name of the dataset of a folder that `imagefolder:PATH` does not open equally."""


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

    The layouts are those of `jaxcnn.data.imagefolder`. Folders train, val and test are the three splits; with train and
    val only, val is the test split. The images are copied to the folder of prepared datasets once. The copy is made
    again when a file changes or the folder is divided otherwise, and replaces the older copy.

    Args:
      path: the folder. It contains class folders, or folders train, test and val of class folders.
      test: without a test folder, fraction of the images of each class in the test split, at least one image of two.
        The choice depends on the names of the files and the seed.
      validation: without a folder of validation images, fraction of the images of each class in the validation split;
        of the training images, where there is a test folder. Default: no validation split.
      seed: seed of the choice of test and validation images.
      class_names: names of all classes, in the order of the labels. Default: sorted.
      data_dir: folder of prepared datasets. Default: `$TFDS_DATA_DIR`, or the default of TFDS.
      skip_damaged: whether to leave out damaged images, instead of raising.

    Returns:
      A dataset with the name `imagefolder:PATH`; or "folder", if the dataset that `open_dataset` opens by that name has
      other splits, classes in another order, or damaged images.

    Raises:
      UsageError: if `path` is not a folder or has none of the layouts; images are damaged (the error names all of
        them); a split is empty; a class has no training images; there are fewer than two classes; `class_names` are not
        the names of the class folders; a fraction or the seed is out of range; or `validation` is given where there is
        a folder of validation images.
      RunError: if the copy cannot be written, for example because the disk is full.

    Example:
      >>> from jaxcnn.data import from_folder
      >>> from_folder("pictures", test=1.5)
      Traceback (most recent call last):
      ...
      jaxcnn.errors.UsageError: test is not a fraction between 0 and 1: 1.5. Give one, such as 0.2.
    """
    division = imagefolder.make_division(test, validation, seed)
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"path is not a path: {shortened(repr(path))}. Give a folder of images.")
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
        raise UsageError(f"class_names lacks a class folder: {missing!r}. Add its name.")
    return replace(dataset.with_classes(class_names), name=NAME)
