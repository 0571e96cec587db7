"""Folders and tables of images as datasets, copied to ArrayRecord files once.

`imagefolder:PATH` is a folder with one folder of images for each class. These layouts are accepted:

- PATH/train/CLASS, PATH/test/CLASS and, if wanted, PATH/val/CLASS. `training` may take the place of `train`, `testing`
  that of `test`, and `valid` or `validation` that of `val`. Without a test folder of class folders, the validation
  folder is the test set. Without both, one fifth of each class of `train` becomes the test split.
- PATH/CLASS. One fifth of each class becomes the test split, selected by a hash of the file names.

The images of a class may lie at any depth below its folder. Symbolic links are followed. Whether a file is an image is
decided by its content, not by its name. `prepare` reports how many files were left out, and why.

`csv:FILE` is a table with a path and a label in each row; see `table`. Every file in a table must be an image.
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
