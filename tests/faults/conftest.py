"""Makes this folder's helpers importable, and the tiny network and data known."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import killing
import worker as worker_module

from jaxcnn import models
from jaxcnn.train import Config, OptimizerConfig
from jaxcnn.train.evaluation import evaluation as evaluate
from jaxcnn.train.runtime import plan


@pytest.fixture(scope="session")
def worker(tmp_path_factory):
    """A process that starts runs which may be killed."""
    with killing.Worker(tmp_path_factory.mktemp("cache")) as running:
        yield running


@pytest.fixture(scope="module")
def tiny():
    """The configuration of the worker's runs, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        # What `install` changes is put back: other tests of this process list the models.
        patch.setattr(plan, "open_dataset", plan.open_dataset)
        patch.setattr(evaluate, "open_dataset", evaluate.open_dataset)
        for name in ("tiny", "smooth"):
            patch.setitem(models._registry(), name, (worker_module.Tiny, worker_module.__name__))
        worker_module.install()
        yield Config(
            model="tiny",
            dataset="tiny",
            batch_size=16,
            steps=killing.STEPS,
            checkpoint_every=2,
            log_every=3,
            augment=("flip",),
            ema_decay=0.9,
            progress=False,
            optimizer=OptimizerConfig("adam", learning_rate=0.01),
        )
