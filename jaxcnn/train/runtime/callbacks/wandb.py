"""Send the metrics of a run to Weights & Biases."""

import importlib
import secrets
from typing import Any

from jaxcnn.errors import UsageError
from jaxcnn.train.callbacks import Callback, RunView
from jaxcnn.train.config import to_dict
from jaxcnn.train.runtime import workdir
from jaxcnn.train.runtime.record import Row, numbers_to_plot
from jaxcnn.train.runtime.workdir import writing

WANDB = "wandb.json"
REMEDY = "Remove the file to send the metrics to a new run at Weights & Biases."


def check_wandb() -> None:
    """Raise `UsageError` if the optional package wandb cannot be imported."""
    try:
        importlib.import_module("wandb")
    except ImportError as error:
        raise UsageError(f"wandb is not installed ({error}). Run pip install 'jaxcnn[wandb]'.") from None


class WeightsAndBiases(Callback):
    """Send all metrics, named "train/loss", "test/accuracy" and so on, to Weights & Biases.

    At Weights & Biases, the run has the name of the run directory. The file `wandb.json` in the run directory stores
    the id of the run at Weights & Biases, so that a resumed run continues the same charts.
    """

    def __init__(self):
        self._run: Any = None

    def on_start(self, run: RunView) -> None:
        """Start the run at Weights & Biases, or resume it.

        Raises:
          UsageError: if wandb is not installed, or `wandb.json` is damaged.
        """
        check_wandb()
        wandb: Any = importlib.import_module("wandb")
        path = run.folder / WANDB
        if not path.exists():
            with writing(path):
                workdir.write_sealed(path, {"id": secrets.token_hex(4)})
        known = workdir.read_sealed(path, REMEDY).values.get("id")
        if not isinstance(known, str):
            raise UsageError(f"{path} is damaged: the field id is missing. {REMEDY}")
        self._run = wandb.init(
            project="jaxcnn",
            name=run.folder.resolve().name,
            id=known,
            resume="allow",
            dir=str(run.folder),
            config=to_dict(run.config),
        )

    def on_rows(self, run: RunView, rows: list[Row]) -> None:
        for row in rows:
            values = {f"{row['split']}/{name}": value for name, value in numbers_to_plot(row).items()}
            self._run.log(values, step=row["step"])

    def on_end(self, run: RunView, failed: bool) -> None:
        """Wait until all metrics have been sent to Weights & Biases."""
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
            self._run = None
