"""`jaxcnn sweep`: train many networks, and compare their settings."""

import itertools
import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rich.console import Console

from jaxcnn import train
from jaxcnn.cli._recipe import recipe_defaults, values_of
from jaxcnn.cli._training_flags import FIELDS, OPTIMIZER_PREFIX, parse_training, value_of
from jaxcnn.errors import UsageError, shortened
from jaxcnn.train.many import InterruptedSweepError, fit_many
from jaxcnn.train.many.folder import SWEEP

MOST_NETWORKS = 1000

NOT_LISTS = (
    *("workdir", "data_dir", "init_from", "train_split", "test_split", "freeze", "profile"),
    *("log_every", "tensorboard_images", "checkpoint_every", "steps_per_dispatch", "verify_every"),
)
"""Fields that accept only one value, because the value may contain a comma or does not change the results."""


@dataclass(frozen=True)
class Flags(train.Config):
    """Train many networks, and compare settings by mean, standard deviation and 95 % interval over seeds.

    A flag that takes a number or a name also takes several values, separated by commas: --optimizer.learning-rate
    0.01,0.03,0.1 --model lenet5,lenet1. Each combination of values is a setting. All flags of `jaxcnn train` that
    configure a run apply, too. The folder --workdir gets a run directory for each network, sweep.json and
    sweep.png. To resume a sweep, repeat the command with the same --workdir.
    """

    config: str | None = None
    """Python file that defines `config = jaxcnn.train.Config(...)`. Flags override the values in this file."""
    json: bool = False
    """Print the results as JSON, and all other output to standard error."""
    seeds: str | None = None
    """Seeds to train each setting with: an integer N for the seeds 0 to N - 1, or a list of seeds, such as 3,5,7
    (default: only the seed that --seed gives)."""
    how: Literal["auto", "together", "turns", "processes"] = "auto"
    """How to train the networks. together: in one program. turns: one after another. processes: in several processes at
    once, only on a CPU. auto: choose by the devices and the number of networks."""


def run(args: Sequence[str]) -> None:
    grid = list(combinations(args))
    chosen = [parse_training(Flags, "sweep", one, recipe_defaults(Flags, one)) for one in grid]
    flags = chosen[0]
    seeds = None if flags.seeds is None else parse_seeds(flags.seeds)
    if seeds is not None and value_of(args, "--seed") is not None:
        raise UsageError("--seed and --seeds are mutually exclusive. Omit one of the two flags.")
    count = len(grid) * (1 if seeds is None else len(seeds))
    if count > MOST_NETWORKS:
        raise UsageError(
            f"too many networks: the values and seeds give {count:,}. Give fewer values or seeds, for at most "
            f"{MOST_NETWORKS:,} networks."
        )
    configs = [replace(train.Config(**values_of(one)), workdir=None) for one in chosen]
    try:
        results = fit_many(
            configs, seeds=seeds, workdir=flags.workdir, together=flags.how, console=Console(stderr=flags.json)
        )
    except InterruptedSweepError as stop:
        where = [] if flags.workdir else ["--workdir", str(stop.workdir)]
        stop.how = shlex.join(["jaxcnn", "sweep", *args, *where])
        raise
    if flags.json:
        print(json.dumps({**results.to_json(), "workdir": str(results.workdir)}, indent=2))
    else:
        print(f"{results.workdir / SWEEP}")


def combinations(args: Sequence[str]) -> Iterator[list[str]]:
    """Yield the arguments of each combination of values. A flag may have several values, separated by commas.

    >>> list(combinations(["--seed", "1,2", "--model=lenet5", "--augment", "shift:1"]))[1]
    ['--seed', '2', '--model=lenet5', '--augment', 'shift:1']

    Raises:
      UsageError: if there are too many combinations, or a value is empty.
    """
    choices: list[list[list[str]]] = []
    remaining = list(args)
    while remaining:
        flag, equals, value = remaining.pop(0).partition("=")
        takes_list = _takes_list(flag)
        if takes_list and not equals and remaining and "," in remaining[0]:
            choices.append([[flag, one] for one in _split(flag, remaining.pop(0))])
        elif takes_list and "," in value:
            choices.append([[f"{flag}={one}"] for one in _split(flag, value)])
        else:
            choices.append([[flag + equals + value]])
    count = math.prod(map(len, choices))
    if count > MOST_NETWORKS:
        raise UsageError(
            f"too many settings: the values have {count:,} combinations. Give fewer values, for at most "
            f"{MOST_NETWORKS:,} settings."
        )
    for combination in itertools.product(*choices):
        yield [arg for part in combination for arg in part]


def _split(flag: str, text: str) -> list[str]:
    """Split a list of values at its commas. A text that starts with "(" or "[", such as a tuple, is one value."""
    if text.startswith(("(", "[")):
        return [text]
    values = text.split(",")
    if "" in values:
        raise UsageError(f"{flag} has an empty value: {shortened(text)}. Separate the values by single commas.")
    return values


def _takes_list(flag: str) -> bool:
    """Return whether a flag accepts a number or a name. Such a flag also accepts a list of values."""
    if not flag.startswith("--"):
        return False
    name = flag.removeprefix("--").replace("-", "_")
    if flag.startswith(OPTIMIZER_PREFIX) and name.removeprefix("optimizer.") not in FIELDS:
        return True
    kind: Any = train.Config
    for part in name.split("."):
        hints = get_type_hints(kind) if isinstance(kind, type) else {}
        if part not in hints or part in NOT_LISTS:
            return False
        kind = hints[part]
    kinds = get_args(kind) if get_origin(kind) not in (None, tuple, Literal) else (kind,)
    kinds = [k for k in kinds if k is not type(None) and get_origin(k) is not tuple]
    return bool(kinds) and all(k in (int, float, str) or get_origin(k) is Literal for k in kinds)


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of `--seeds`: 0 to N - 1 for a number N, or the numbers in a list.

    >>> parse_seeds("3"), parse_seeds("3,5,7")
    ([0, 1, 2], [3, 5, 7])

    Raises:
      UsageError: if the text is neither a number nor a list of numbers, or N is too large.
    """
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() and len(part) <= 10 for part in parts) or parts == ["0"]:
        raise UsageError(
            f"--seeds must be a number of seeds, such as 10, or a list of seeds, such as 3,5,7, got {shortened(text)!r}"
        )
    if len(parts) > 1:
        return [int(part) for part in parts]
    if int(text) > MOST_NETWORKS:
        raise UsageError(f"--seeds has too many seeds: {text}. Give at most {MOST_NETWORKS:,} seeds.")
    return list(range(int(text)))
