"""`imagefolder:PATH`: a folder with one folder of images for each class, copied to ArrayRecord files once.

Two layouts are accepted:

- PATH/train/CLASS and PATH/test/CLASS. `training` may take the place of `train`, and `testing`, `val`, `valid` or
  `validation` that of `test`. Without a test folder of class folders, one fifth of each class of `train` becomes the
  test split.
- PATH/CLASS. One fifth of each class becomes the test split, selected by a hash of the file names.

The images of a class may lie at any depth below its folder. Symbolic links are followed. Whether a file is an image is
decided by its content, not by its name. `prepare` reports how many files were left out, and why.
"""

from jaxcnn.data.imagefolder.prepare import PREFIX, Prepared, inventory, prepare

__all__ = ["PREFIX", "Prepared", "inventory", "prepare"]
