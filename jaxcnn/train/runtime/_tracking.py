"""Rows of a run's record, sent to Weights & Biases as well."""

import secrets
from pathlib import Path
from typing import Any

from jaxcnn.errors import UsageError
from jaxcnn.train.config import Config, to_dict
from jaxcnn.train.runtime import workdir

WANDB = "wandb.json"


def check_installed() -> None:
    """Raises `UsageError` if wandb, which is not among the dependencies, cannot be imported."""
    try:
        import wandb  # type: ignore[import-not-found] # noqa: F401
    except ImportError as error:
        raise UsageError(f"wandb sends metrics to Weights & Biases ({error}); pip install 'jaxcnn[wandb]'") from None


class WeightsAndBiases:
    """A run there, under the name of the folder here; the id in the folder lets it go on when the run does."""

    def __init__(self, folder: Path, config: Config):
        import wandb  # type: ignore[import-not-found]

        path = folder / WANDB
        if not path.exists():
            with workdir.writing(path):
                workdir.write_json(path, {"id": secrets.token_hex(4)})
        self._run: Any = wandb.init(
            project="jaxcnn",
            name=folder.resolve().name,
            id=workdir.read_json(path)["id"],
            resume="allow",
            dir=str(folder),
            config=to_dict(config),
        )

    def write(self, row: dict[str, Any]) -> None:
        """Sends a row: "train/loss", "test/accuracy" and so on, at its step."""
        values = {f"{row['split']}/{name}": value for name, value in row.items() if name not in ("split", "step")}
        self._run.log(values, step=row["step"])

    def close(self, *, failed: bool) -> None:
        """Waits until all is sent."""
        self._run.finish(exit_code=int(failed))
