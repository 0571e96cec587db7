"""`jaxcnn find-lr`: plot the training loss against the learning rate, and suggest a learning rate."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from jaxcnn import train
from jaxcnn.cli._output import plain
from jaxcnn.cli._recipe import recipe_defaults, values_of
from jaxcnn.cli._training_flags import parse_training
from jaxcnn.errors import RunError
from jaxcnn.local_path import local_folder
from jaxcnn.train.runtime.workdir import short_name


@dataclass(frozen=True)
class Flags(train.Config):
    """Increase the learning rate in one short run, plot the loss against the learning rate, and suggest a value.

    All flags of `jaxcnn train` that configure the run apply, too. The command writes find_lr.json and find_lr.png into
    the folder --workdir.
    """

    config: str | None = None
    """Python file that defines `config = jaxcnn.train.Config(...)`. Flags override the values in this file."""
    json: bool = False
    """Print the result as JSON."""
    try_steps: int = 100
    """Number of training steps. Each step has a higher learning rate than the previous step."""
    lowest: float = 1e-6
    """Learning rate of the first step."""
    highest: float = 10.0
    """Learning rate of the last step. The run stops earlier if the loss diverges."""


def run(args: Sequence[str]) -> None:
    flags = parse_training(Flags, "find-lr", args, recipe_defaults(Flags, args))
    config = train.Config(**values_of(flags))
    folder = local_folder("--workdir", flags.workdir or f"runs/find-lr-{config.model}-{short_name(config.dataset)}")
    result = train.find_learning_rate(config, steps=flags.try_steps, lowest=flags.lowest, highest=flags.highest)
    result.save(folder, f"{config.model} on {config.dataset}, {config.optimizer.name}, batch {config.batch_size}")
    if flags.json:
        print(json.dumps({**dataclasses.asdict(result), "workdir": str(folder)}, indent=2))
    picture = f"{folder / 'find_lr.png'} shows the loss of {len(result.losses)} steps"
    if result.suggestion is None:
        raise RunError(
            f"no learning rate found: the loss does not fall from {result.learning_rates[0]:.2g} to "
            f"{result.learning_rates[-1]:.2g}. Try other values of --lowest, --highest and --try-steps; {picture}."
        )
    if not flags.json:
        Console().print(
            Text.assemble(
                "suggested: ",
                (f"--optimizer.learning-rate {result.suggestion:.2g}", "bold green"),
                ", a third of the learning rate with the lowest loss; ",
                plain(picture),
            ),
            soft_wrap=True,
        )
