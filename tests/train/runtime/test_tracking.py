"""Pictures for TensorBoard, and metrics for Weights & Biases."""

import dataclasses
import sys
import types

import pytest

from jaxcnn import cli
from jaxcnn.train import Config, DivergedError, OptimizerConfig, fit
from jaxcnn.train.callbacks import RunView
from jaxcnn.train.runtime.callbacks import WeightsAndBiases
from jaxcnn.train.runtime.record import read_rows

TINY = Config(steps=3, batch_size=8, progress=False)


class Wandb(types.ModuleType):
    """A fake wandb that stores its calls."""

    def __init__(self):
        super().__init__("wandb")
        self.starts, self.rows, self.ends = [], [], []

    def init(self, **options):
        self.starts.append(options)
        return self

    def log(self, values, step):
        self.rows.append((step, values))

    def finish(self, exit_code):
        self.ends.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    stub = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", stub)
    return stub


def test_weights_and_biases_gets_every_row_once_also_of_a_run_that_goes_on(wandb, tmp_path):
    config = dataclasses.replace(TINY, wandb=True, workdir=str(tmp_path / "run"))
    result = fit(config)
    (tmp_path / "run" / "result.json").unlink()
    fit(config)
    rows = [
        (row["step"], {f"{row['split']}/{name}": value for name, value in row.items() if name not in ("split", "step")})
        for row in read_rows(result.workdir)
    ]
    assert wandb.rows == rows
    assert len(rows) == 4
    first, second = wandb.starts
    assert first == second  # with the same id
    assert (first["name"], first["config"]["batch_size"], first["resume"]) == ("run", 8, "allow")
    assert wandb.ends == [0, 0]


def test_a_run_that_fails_is_said_to_have_failed(wandb, tmp_path):
    optimizer = OptimizerConfig(learning_rate=1e30)
    with pytest.raises(DivergedError):
        fit(dataclasses.replace(TINY, wandb=True, optimizer=optimizer, workdir=str(tmp_path)))
    assert wandb.ends == [1]


def test_weights_and_biases_gets_the_numbers_of_a_row_and_no_lists(wandb, tmp_path):
    run = RunView(5, 0.5, 10, 0, tmp_path, TINY, fetch_state=dict, fetch_metrics=dict, run_evaluation=dict)
    callback = WeightsAndBiases()
    callback.on_start(run)
    callback.on_rows(run, [{"split": "validation", "step": 5, "top5": 0.5, "examples": 9, "recall": [0.1, 0.9]}])
    callback.on_end(run, False)
    assert wandb.rows == [(5, {"validation/top5": 0.5, "validation/examples": 9})]


def test_without_wandb_nothing_is_begun(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    assert cli.main(["train", "--wandb", "--workdir", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "pip install 'jaxcnn[wandb]'" in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_tensorboard_gets_the_predictions_of_test_images(tmp_path):
    from tensorboardX.proto import event_pb2

    fit(dataclasses.replace(TINY, tensorboard_images=10, workdir=str(tmp_path)))
    (path,) = tmp_path.glob("events.out.tfevents.*")
    content, images, tags = path.read_bytes(), [], set()
    while content:
        length = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        for value in event.summary.value:
            tags.add(value.tag)
            if value.HasField("image"):
                images.append((value.tag, event.step, value.image))
    ((tag, step, image),) = images
    assert (tag, step) == ("test/predictions", 3)
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert (image.width, image.height) == (1040, 350)  # two rows
    assert "train/learning_rate" in tags
