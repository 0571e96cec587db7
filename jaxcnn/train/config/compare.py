"""Compare configurations, as dicts of JSON values: return the fields in which two runs differ."""

from typing import Any

from jaxcnn.errors import shortened

NOT_PART_OF_THE_RUN = (
    "accept_changed_data",
    "data_dir",
    "data_fingerprint",
    "workdir",
    "steps_per_dispatch",
    "checkpoint_every",
    "log_every",
    "verify_every",
    "verify",
    "profile",
    "tensorboard_images",
    "wandb",
    "progress",
)
"""Fields that do not change the results of a run, such as its folder and its log files."""

DISTRIBUTION = ("parallel", "shard_state")
"""Fields that say how steps are distributed over devices. They do not change the arrays of a state. A resumed run may
therefore change them, and also the devices."""


SETTINGS = (*NOT_PART_OF_THE_RUN, *DISTRIBUTION)
"""Fields that may change between two starts of the same run."""

MODEL_SETTINGS = ("memory_efficient", "remat", "scan_blocks")
"""Options of models that change how a step is computed, but not its result. A resumed run may change them too."""


def without_settings(values: dict[str, Any], left_out: tuple[str, ...] = SETTINGS) -> dict[str, Any]:
    """Return a configuration without some fields, and without options of models that may change."""
    kept = {name: value for name, value in values.items() if name not in left_out}
    if isinstance(options := values.get("model_options"), list):
        kept["model_options"] = [option for option in options if str(option).partition("=")[0] not in MODEL_SETTINGS]
    return kept


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the fields in which two dicts differ, as "name: old -> new", at any depth.

    >>> differences({"seed": 0, "optimizer": {"name": "adam"}}, {"seed": 1, "optimizer": {"name": "adam"}})
    ['seed: 0 -> 1']
    """
    found = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name}: {shortened(repr(before))} -> {shortened(repr(after))}")
    return found
