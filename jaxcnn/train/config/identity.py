"""What makes two configurations the same run."""

from typing import Any

# Fields that may change between two starts of the same run: where it is stored and how it is watched.
NOT_PART_OF_THE_RUN = (
    "accept_changed_data",
    "data_dir",
    "data_fingerprint",
    "workdir",
    "steps_per_dispatch",
    "checkpoint_every",
    "log_every",
    "profile",
    "tensorboard_images",
    "wandb",
    "progress",
)

# Fields of models that change how a step is computed, but not what is learned; they may change in the same way.
OPTIONS_NOT_PART_OF_THE_RUN = ("memory_efficient", "remat", "scan_blocks")


def of_the_run(values: dict[str, Any], left_out: tuple[str, ...] = NOT_PART_OF_THE_RUN) -> dict[str, Any]:
    """Return a configuration, as a dict, without what may change between two starts of the same run."""
    kept = {**values, **dict.fromkeys(left_out)}
    if isinstance(options := values.get("model_options"), list):
        kept["model_options"] = [
            option for option in options if str(option).partition("=")[0] not in OPTIONS_NOT_PART_OF_THE_RUN
        ]
    return kept
