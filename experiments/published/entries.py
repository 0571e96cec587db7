"""The recipes whose results are compared with published accuracies."""

import dataclasses
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcnn.errors import unknown_name
from jaxcnn.train import Config

RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class Entry:
    """A recipe, with changes to its configuration.

    Attributes:
      name: of the entry, and of the folder of its results.
      recipe: name of the file in `experiments/recipes`, without `.py`.
      network: the network's name for readers.
      dataset: the dataset's name for readers.
      accuracy: the published test accuracy, from 0 to 1; or the aim, where nothing is published.
      source: the paper and its table, section or program; or "aim".
      changes: names and values of fields of the configuration, which are flags of `jaxcnn train`.
      seeds: the number of networks that `run` trains.
    """

    name: str
    recipe: str
    network: str
    dataset: str
    accuracy: float
    source: str
    changes: tuple[tuple[str, Any], ...] = ()
    seeds: int = 3

    @property
    def path(self) -> Path:
        """The recipe's file."""
        return RECIPES / f"{self.recipe}.py"

    def config(self, seed: int) -> Config:
        """Return the configuration of the run with this seed."""
        recipe: Config = runpy.run_path(str(self.path))["config"]
        return dataclasses.replace(recipe, **dict(self.changes), seed=seed)

    def command(self, seed: int) -> list[str]:
        """Return the words of the command that trains the network of this seed, in a clone of the project."""
        words = ["jaxcnn", "train", "--config", f"experiments/recipes/{self.recipe}.py"]
        for name, value in self.changes:
            words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value])]
        return [*words, "--seed", str(seed)]


HALF = (("dtype", "bfloat16"),)
HE = "He et al. 2015, table 6"
AIRBENCH = "Jordan 2024, airbench"

ENTRIES = (
    Entry("mnist_lenet5", "mnist_lenet5", "LeNet-5", "MNIST", 0.9905, "LeCun et al. 1998, section III-B"),
    Entry(
        *("mnist_lenet5_shifted", "mnist_lenet5", "LeNet-5, shifted images", "MNIST", 0.9920),
        *("LeCun et al. 1998, section III-B, with distortions", (("augment", ("shift:2",)),)),
    ),
    Entry("fashion_mnist_resnet20", "fashion_mnist_resnet20", "ResNet-20", "Fashion-MNIST", 0.93, "aim", HALF),
    Entry("cifar10_resnet20", "cifar10_resnet20", "ResNet-20", "CIFAR-10", 0.9125, HE, HALF, 1),
    Entry("cifar10_resnet20_short", "cifar10_resnet20_short", "ResNet-20, 41 epochs", "CIFAR-10", 0.9125, HE, HALF),
    Entry("cifar10_speedrun", "cifar10_speedrun", "speedrun, 10 epochs", "CIFAR-10", 0.9401, AIRBENCH, HALF, 5),
    Entry("cifar10_speedrun_muon", "cifar10_speedrun_muon", "speedrun, Muon", "CIFAR-10", 0.9401, AIRBENCH, HALF, 1),
    Entry("cifar10_speedrun96", "cifar10_speedrun96", "speedrun96", "CIFAR-10", 0.9603, AIRBENCH, HALF, 1),
)


def find(name: str) -> Entry:
    """Return an entry by its name.

    Raises:
      UsageError: if there is no such entry.
    """
    by_name = {entry.name: entry for entry in ENTRIES}
    if name not in by_name:
        raise unknown_name("entry", name, by_name)
    return by_name[name]
