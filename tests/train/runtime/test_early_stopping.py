"""A run with `patience` ends after epochs without a better test accuracy, also when it is resumed."""

import dataclasses
import shutil

import flax.linen as nn
import pytest
from rich.console import Console

from jaxcnn.errors import UsageError
from jaxcnn.train import Config, OptimizerConfig, fit
from jaxcnn.train.runtime.record import read_rows

# A learning rate at which nothing changes: the first epoch has the best accuracy.
CONFIG = Config(
    epochs=9, batch_size=5000, patience=2, optimizer=OptimizerConfig("sgd", learning_rate=1e-30), progress=False
)


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(10)(x[:, ::7, ::7].reshape(len(x), -1))


@pytest.mark.usefixtures("compile_quickly")
def test_a_run_without_progress_ends_regularly_and_says_why(tmp_path):
    config = dataclasses.replace(CONFIG, workdir=str(tmp_path))
    first = fit(config, model=Tiny())
    assert first.values["stopped"] == "stopped at step 6 of 18: no better test accuracy in 2 evaluations"
    assert (first.values["steps"], first.values["epochs"], int(first.state.step)) == (6, 3.0, 6)

    console = Console(width=100, record=True, file=(tmp_path / "output").open("w"))
    again = fit(dataclasses.replace(config, progress=True), model=Tiny(), console=console)
    console.file.close()
    assert again.values == first.values  # a finished run is not run again
    assert first.values["stopped"] in console.export_text()

    (tmp_path / "result.json").unlink()
    assert int(fit(config, model=Tiny()).state.step) == 6  # only its result was missing

    (tmp_path / "result.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    resumed = fit(config, model=Tiny())
    assert resumed.values["state_sha256"] == first.values["state_sha256"]
    assert resumed.values["steps"] == 6
    assert [row["step"] for row in read_rows(tmp_path) if row["split"] == "test"] == [2, 4, 6]


def test_a_patience_of_no_epoch_is_refused(tmp_path):
    with pytest.raises(UsageError, match="patience must be at least 1, got 0"):
        fit(dataclasses.replace(CONFIG, patience=0))
