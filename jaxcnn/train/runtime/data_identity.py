"""Identity of a run's data. A resumed run compares this identity with the stored identity, to detect changed data.

The file `data.json` in the run directory stores the splits, the number of images of each class in each split, and a
hash of the names and sizes of the image files. `Config.data_fingerprint="contents"` adds a hash of the files' contents.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from jaxcnn.data import Dataset
from jaxcnn.data.dataset import UNNAMED
from jaxcnn.errors import UsageError
from jaxcnn.train.config import Config
from jaxcnn.train.parts import PREFIX
from jaxcnn.train.runtime import workdir

DATA = "data.json"
REMEDY = "Restore the file, or accept the changed data with --accept-changed-data."

OTHER_TEST_SET = (
    "this run is of version 0.1, which chose other images of the folder as test set: it was trained on some of these "
    "test images"
)

VALIDATION = "the validation images "
"""Prefix of the names of the parts of a validation split in `data.json`."""

Identity = dict[str, Any]


def identity(dataset: Dataset, config: Config) -> Identity:
    """Return the identity of the data of a run, as JSON values."""
    return {
        "classes": list(dataset.class_names),
        "splits": list(dataset.examples),
        "parts": dataset.fingerprint(contents=config.data_fingerprint == "contents"),
    }


def check(folder: Path, found: Identity, *, accept: bool) -> str | None:
    """Compare the data with the identity that the run directory stores. Nothing is written.

    Args:
      folder: the run directory.
      found: `identity` of the current data.
      accept: whether to continue with changed data.

    Returns:
      A note for the user if the data has changed and `accept` is True, else None.

    Raises:
      UsageError: if `accept` is False, and the data has changed or `data.json` is damaged. The error message lists the
        changes.
    """
    path = folder / DATA
    if not path.exists():
        return None
    try:
        changed = differences(workdir.read_sealed(path, REMEDY).values, found)
    except UsageError as error:
        if not accept:
            raise
        return f"{error} Continuing with the changed data."
    if not changed:
        return None
    said = "; ".join(changed[:8]) + (f"; and {len(changed) - 8} more changes" if len(changed) > 8 else "")
    if not accept:
        raise UsageError(
            f"the data of the run in {folder} has changed: {said}. Restore the data, choose another --workdir, or "
            "accept the changed data with --accept-changed-data."
        )
    return f"continuing with changed data: {said}"


def write(folder: Path, found: Identity) -> None:
    """Store the identity of the data in the run directory. Keep stored hashes of contents if the data is unchanged."""
    path = folder / DATA
    with contextlib.suppress(UsageError):  # the file is missing, or it is damaged and `check` has accepted that
        stored = workdir.read_sealed(path, REMEDY).values
        if not differences(stored, found):
            kept = {
                name: {**part, "contents": part["contents"] or stored["parts"].get(name, {}).get("contents")}
                for name, part in found["parts"].items()
            }
            found = {**found, "parts": kept}
        if stored == found:
            return
    workdir.write_sealed(path, found)


def check_division(folder: Path, dataset: Dataset, *, accept: bool) -> str | None:
    """Check that a run of version 0.1 can continue with the same test set.

    Version 0.1 stored no identity of the data. If a folder of images had no test set, version 0.1 chose other images of
    the folder as test images than this version does.

    Args:
      folder: the run directory, which contains a checkpoint.
      dataset: the current data.
      accept: whether to continue although the test images have changed.

    Returns:
      A note for the user if the test images have changed and `accept` is True, else None.

    Raises:
      UsageError: if the test images have changed, and `accept` is False.
    """
    if not is_divided_otherwise(folder, dataset):
        return None
    if not accept:
        raise UsageError(
            f"the run in {folder} is of version 0.1, which chose other images of {dataset.name} as test set. Finish "
            "the run with version 0.1, choose another --workdir, or accept another test set with --accept-changed-data."
        )
    return OTHER_TEST_SET


def is_divided_otherwise(folder: Path, dataset: Dataset) -> bool:
    """Return whether a run of version 0.1 may have been trained on images that are test images now."""
    return dataset.chooses_test_images and not (folder / DATA).exists()


def differences(stored: Any, found: Identity) -> list[str]:
    """Return one phrase for each changed part of the data, such as "the test array 'image' has other contents".

    Hashes of contents are compared only if both identities contain such hashes.
    """
    before = stored.get("parts") if isinstance(stored, dict) else None
    if not isinstance(before, dict):
        return [f"{DATA} is damaged"]
    after, changed = found["parts"], []
    for part in [*before, *(part for part in after if part not in before)]:
        old, new = before.get(part), after.get(part)
        files = (new or {}).get("files", True)
        if new is None:
            changed.append(f"{part} is missing")
        elif old is None and "splits" not in stored and part.startswith(VALIDATION):
            continue  # earlier versions ignored a validation folder if there was a test folder
        elif not isinstance(old, dict):
            changed.append(f"{part} is new ({_images(new['images'])})")
        elif old.get("images") != new["images"]:
            changed.append(f"{part} has {_images(new['images'])} instead of {old.get('images')}")
        elif old.get("sizes") != new["sizes"]:
            changed.append(f"files of {part} have other names or sizes" if files else f"{part} has other shapes")
        elif None not in (old.get("contents"), new["contents"]) and old["contents"] != new["contents"]:
            changed.append(f"files of {part} have other contents" if files else f"{part} has other contents")
    return changed


def _images(count: int) -> str:
    return f"{count:,} image" if count == 1 else f"{count:,} images"


def check_data(data: Any) -> None:
    """Raise `UsageError` if `data` is not a `Dataset`."""
    if not isinstance(data, Dataset):
        raise UsageError(
            f"data must be a dataset, got {type(data).__name__}. Make a dataset with jaxcnn.data.from_arrays, "
            "from_table, from_folder, from_source, from_batches or open_dataset."
        )


def with_name_of_data(config: Config, data: Dataset | None) -> Config:
    """Return the configuration, with its field `dataset` set to the name of the data that the user has passed.

    A dataset that can be opened by its name, such as `imagefolder:PATH`, is recorded under this name. Other data is
    recorded under a name with the prefix `custom:`. The configuration may contain the recorded name already, as the
    configuration of a `Result` does.

    Raises:
      UsageError: if `data` is not a `Dataset`, or if the configuration names another dataset.
    """
    if data is None:
        return config
    check_data(data)
    name = f"{PREFIX}{data.name}" if data.name in UNNAMED else data.name
    if config.dataset not in (Config.dataset, name):
        raise UsageError(f"data and the dataset {config.dataset!r} are mutually exclusive. Omit one of the two.")
    return dataclasses.replace(config, dataset=name)
