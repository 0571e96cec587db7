"""Datasets of image folders and image tables. The images are copied to ArrayRecord files once.

`imagefolder:PATH` is a folder with one folder of images for each class. These layouts are accepted:

- PATH/train/CLASS, PATH/test/CLASS and optionally PATH/val/CLASS. The folder names `training`, `testing`, `valid` and
  `validation` are accepted too. If there is no test folder with class folders, the validation folder is the test set.
  If there is neither a test folder nor a validation folder, one fifth of each class of `train` becomes the test split.
- PATH/CLASS. One fifth of each class becomes the test split, selected by a hash of the file names.

The images of a class may be at any depth below its folder. Symbolic links are followed. Image files are recognized by
their content, not by their name. `prepare` reports how many files were left out, and why.

`csv:FILE` is a table with a path and a label in each row; see `jaxcnn.data.imagefolder.table`. Every file in a table
must be an image.
"""

from jaxcnn.data.imagefolder.files import Division, make_division
from jaxcnn.data.imagefolder.prepare import (
    CSV_PREFIX,
    PREFIX,
    Prepared,
    copy,
    inventory,
    is_copy,
    is_name,
    prepare,
    prepare_named,
)

__all__ = [
    "CSV_PREFIX",
    "PREFIX",
    "Division",
    "Prepared",
    "copy",
    "inventory",
    "is_copy",
    "is_name",
    "make_division",
    "prepare",
    "prepare_named",
]
