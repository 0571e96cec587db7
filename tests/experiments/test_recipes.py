"""Every recipe is a configuration that a run can be planned from, and says what it aims at."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from jaxcnn.data import TfdsDataset
from jaxcnn.models import paper
from jaxcnn.train import Config
from jaxcnn.train.runtime import plan

RECIPES = sorted((Path(__file__).parents[2] / "experiments" / "recipes").glob("*.py"))
SHAPES = {
    "cifar10": ((32, 32, 3), 10, 50_000),
    "mnist": ((28, 28, 1), 10, 60_000),
    "fashion_mnist": ((28, 28, 1), 10, 60_000),
    "imagenet2012": ((None, None, 3), 1000, 1_281_167),
}


class Unread(TfdsDataset):
    """A dataset whose examples are of zeros."""

    def load(self, split, indices, geometry, **_):
        images = np.zeros((len(indices), *geometry.size, self.image_shape[-1]), np.uint8)
        return {"image": images, "label": np.zeros(len(indices), np.int32)}


@pytest.fixture(autouse=True)
def _data_sets_that_are_not_here(monkeypatch):
    def open_dataset(name, data_dir=None, **_):
        shape, classes, examples = SHAPES[name]
        counts = {"train": examples, "test": 10_000}
        return Unread(name, shape, tuple(map(str, range(classes))), counts, directory=Path("nowhere"))

    monkeypatch.setattr(plan, "open_dataset", open_dataset)


def test_there_is_a_recipe_for_each_of_the_line():
    wanted = ("resnet20", "densenet", "wide_resnet", "resnet50", "resnet50_modern", "alexnet", "vgg", "googlenet")
    assert [name for name in wanted if not any(name in path.stem for path in RECIPES)] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_run_can_be_planned(path):
    recipe = runpy.run_path(str(path))
    config = recipe["config"]
    assert isinstance(config, Config)
    made = plan.make_plan(config)
    assert made.pipeline.image_shape == (
        (224, 224, 3) if config.dataset == "imagenet2012" else SHAPES[config.dataset][0]
    )
    rates = [float(made.schedule(int(share * made.steps))) for share in (0.1, 0.99)]
    assert rates[0] > rates[1] > 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_its_docstring_has_its_command_its_source_and_a_published_accuracy(path):
    recipe = runpy.run_path(str(path))
    text = recipe["__doc__"]
    assert f"--config experiments/recipes/{path.name}" in text
    assert re.search(r"\d\d\.\d+ %", text)
    assert re.search(r"\*[^*]+\*, (19|20)\d\d", text)
    assert paper(recipe["config"].model)
