"""Find the fields in which the configurations of two runs differ. Configurations are dicts of JSON values."""

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
"""Fields of the configuration that do not change the results of a run, such as `workdir` and `log_every`."""

DISTRIBUTION = ("parallel", "shard_state")
"""Fields of the configuration that choose how steps are distributed over devices. A resumed run may change these fields
and the devices, since the arrays of the training state keep their shapes."""


SETTINGS = (*NOT_PART_OF_THE_RUN, *DISTRIBUTION)
"""Fields of the configuration that a resumed run may change."""

MODEL_SETTINGS = ("memory_efficient", "remat", "scan_blocks")
"""Fields of models that change how a step is computed, but not its result. A resumed run may change these fields."""


def without_settings(values: dict[str, Any], left_out: tuple[str, ...] = SETTINGS) -> dict[str, Any]:
    """Return a configuration without the fields in `left_out`, and without the model options in `MODEL_SETTINGS`."""
    kept = {name: value for name, value in values.items() if name not in left_out}
    if isinstance(options := values.get("model_options"), list):
        kept["model_options"] = [option for option in options if str(option).partition("=")[0] not in MODEL_SETTINGS]
    return kept


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return a text "name: old -> new" for each field in which two nested dicts differ.

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
