"""`jaxcnn find-lr`: plot the loss against the learning rate, and suggest a learning rate."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from jaxcnn import train
from jaxcnn.cli._training_flags import parse_training
from jaxcnn.cli.commands.train import recipe_defaults, values_of


@dataclass(frozen=True)
class Flags(train.Config):
    """Try learning rates in one short run, plot the loss against them, and suggest one.

    The other flags are those of `train`. Writes find_lr.json and find_lr.png into --workdir.
    """

    config: str | None = None
    """A Python file that defines `config = jaxcnn.train.Config(...)`. Flags override its values."""
    json: bool = False
    """Print the result as JSON."""
    try_steps: int = 100
    """Steps of the test, each at a higher learning rate."""
    lowest: float = 1e-6
    """First learning rate."""
    highest: float = 10.0
    """Last learning rate, unless the loss diverges before."""


def run(args: Sequence[str]) -> None:
    flags = parse_training(Flags, "find-lr", args, recipe_defaults(Flags, args))
    config = train.Config(**values_of(flags))
    result = train.find_learning_rate(config, steps=flags.try_steps, lowest=flags.lowest, highest=flags.highest)
    folder = Path(flags.workdir or f"runs/find-lr-{config.model}-{config.dataset.replace('/', '_')}").expanduser()
    result.save(folder, f"{config.model} on {config.dataset}, {config.optimizer.name}, batch {config.batch_size}")
    if flags.json:
        print(json.dumps({**dataclasses.asdict(result), "workdir": str(folder)}, indent=2))
        return
    Console().print(
        f"suggested: [bold green]--optimizer.learning-rate {result.suggestion:.2g}[/], a third of the learning rate "
        f"with the lowest loss; {folder / 'find_lr.png'} shows the loss of {len(result.losses)} steps",
        highlight=False,
    )
