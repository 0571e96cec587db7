"""Case k of seed s: a command with its flags, and damage to the files that it reads. The same on every machine."""

import dataclasses
import functools
import random
import re
import shlex
from collections.abc import Mapping, Sequence

from .damage import Damage
from .schema import Command, Flag, read_commands
from .template import ITEMS, NEEDS, PICTURES_RUN, RUN
from .texts import TEXTS
from .values import NEVER, STARTS_PROCESSES, draw, starts_processes, valid

TRAINING = ("--steps", "1", "--batch-size", "4", "--no-progress")
NETWORKS = ("--seeds", "2", "--how", "turns")
PICTURES = ("--dataset", "imagefolder:pictures", "--image-size", "28")

# Flags with which a command does its work in a short time. Without a row, these are the required flags.
BASES: Mapping[str, Sequence[Sequence[str]]] = {
    "train": (
        *[(*TRAINING, *PICTURES)] * 4,
        (*TRAINING, *PICTURES, "--workdir", "new"),
        (*TRAINING, "--config", "recipe.py"),
        (*TRAINING, "--config", "recipe.py"),
        (*TRAINING, "--init-from", "weights.safetensors"),
        (*TRAINING, "--init-from", "weights.pth"),
        (*RUN, "--workdir", "run"),
        (*PICTURES_RUN, "--workdir", "pictures_run"),
    ),
    "find-lr": (
        (*TRAINING, *PICTURES, "--try-steps", "20"),
        (*TRAINING, "--config", "recipe.py", "--try-steps", "20", "--workdir", "new"),
    ),
    "sweep": (
        (*TRAINING, *PICTURES, *NETWORKS, "--workdir", "new"),
        (*TRAINING, *PICTURES, "--optimizer.learning-rate", "0.1,0.01", "--how", "turns"),
        (*TRAINING, *NETWORKS, "--config", "recipe.py", "--json"),
    ),
    "check": (("run",), ("pictures_run", "--json")),
    "eval": (("--workdir", "run"), ("--workdir", "pictures_run")),
    "predict": (
        ("images", "--workdir", "run"),
        ("images/1.jpg", "images/4.webp", "--workdir", "pictures_run"),
        ("images/0.png", "--workdir", "pictures_run", "--json"),
        ("images", "--workdir", "pictures_run"),
    ),
    "visualize": (
        ("filters", "--workdir", "run"),
        ("layers", "--workdir", "pictures_run"),
        ("features", "--workdir", "pictures_run", "--image", "images/1.jpg"),
        ("features", "--workdir", "run", "--image", "images/3.tif", "--out", "out"),
        ("confusion", "--workdir", "pictures_run"),
    ),
    "convert": (
        ("weights.safetensors", "--model", "lenet5"),
        ("weights.safetensors", "--model", "lenet5", "--out", "out.safetensors"),
        ("weights.pth", "--model", "resnet18"),
        ("weights.pth", "--model", "lenet5", "--drop-head", "--json"),
        ("--workdir", "run", "--out", "out.safetensors"),
    ),
    "export": (("--workdir", "run", "--out", "out.hlo"), ("--workdir", "pictures_run", "--out", "out/deeper.hlo")),
    "datasets show": (("imagefolder:pictures",), ("imagefolder:pictures", "--augment", "flip", "--out", "out.png")),
    "datasets stats": (("imagefolder:pictures",),),
    "prepare": (("mnist", "--source", "originals", "--no-verify"), ("mnist", "--source", "originals")),
    "benchmark compare": (("results/old.json", "results/new.json"), ("results/old.json", "results", "--json")),
}
# One of these makes a benchmark impossible. A possible one starts a process for each row.
REFUSED_BENCHMARKS = (("mode", "trian"), ("batch-sizes", "0"), ("model", "lenet"), ("dtype", "float23"), ("steps", "0"))
POSSIBLE_BENCHMARK = ("--model", "lenet5", "--batch-sizes", "1", "--steps", "1", "--timeout", "6", "--json")

# Shares of the commands. Others, such as new ones, have a share of 4.
SHARES = {"train": 16, "find-lr": 6, "sweep": 6, "eval": 12, "predict": 12, "visualize": 6, "convert": 12, "export": 4,
          "models": 2, "datasets": 2, "datasets show": 5, "datasets stats": 3, "prepare": 5, "benchmark": 6,
          "benchmark compare": 9, "completion": 1, "summary": 8}  # fmt: skip
# Commands whose valid cases cost seconds. Most of their cases contain a flag that is not valid.
SLOW = ("train", "find-lr", "sweep")
OVERVIEW = (
    (), ("-h",), ("--help",), ("--version",), ("--version", "x"), ("tarin",), ("",), ("\x00",), ("train ",), ("TRAIN",),
    ("--", "train"), ("models", "--help"), ("train", "--help"), ("[/b]",), ("\udcff",), ("x" * 5000,), ("-1",),
    ("datasets", "shwo"), ("benchmark", "compare", "-h"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A command line, and damage to the files that it names.

    Attributes:
      seed: seed of the campaign.
      number: which of the seed's cases.
      command: name of the command.
      args: the command line without `jaxcnn`.
      damage: damage to items of the template, done one after another.
    """

    seed: int
    number: int
    command: str
    args: tuple[str, ...]
    damage: tuple[Damage, ...] = ()

    @property
    def items(self) -> tuple[str, ...]:
        """The items of the template that the command line or the damage names, and those that they need."""
        parts = {part for arg in self.args for part in re.split(r"[:=,/.]", arg)} | set(self.args)
        modules = {f"{part}.py" for part in parts}
        named = [
            item for item in ITEMS if item in parts | modules or any(item in arg for arg in self.args if "." in item)
        ]
        named += [damage.item for damage in self.damage]
        needed = [item for name in named for item in NEEDS.get(name, ())]
        return tuple(item for item in ITEMS if item in {*named, *needed})

    @property
    def shown(self) -> str:
        """The command line as a shell reads it."""
        return " ".join(["jaxcnn", *map(_quoted, self.args)])


def _quoted(arg: str) -> str:
    """Quote an argument for a shell, with escapes where it is not printable."""
    if arg.isprintable():
        return shlex.quote(arg)
    escaped = arg.encode("unicode_escape", "surrogatepass").decode().replace("'", "\\'")
    return f"$'{escaped}'"


@functools.cache
def _commands() -> dict[str, Command]:
    return read_commands()


def make(seed: int, number: int) -> Case:
    """Return a case."""
    rng = random.Random(f"{seed}/{number}")
    commands = _commands()
    if rng.random() < 0.01:
        return Case(seed, number, "", rng.choice(OVERVIEW))
    names = list(commands)
    command = commands[rng.choices(names, [SHARES.get(name, 4) for name in names])[0]]
    if command.name == "benchmark":
        return Case(seed, number, command.name, (*command.words, *_benchmark(rng, command)))
    base = _base(rng, command)
    case = Case(seed, number, command.name, (*command.words, *base))
    damaged = bool(case.items) and rng.random() < 0.5
    most = 1 if damaged else 6
    least = 1 if command.name in SLOW and not damaged else 0
    if not damaged and command.name not in SLOW and rng.random() < 0.1:
        base = ()
    wrong = 0 if damaged else 1 if command.name in SLOW and rng.random() < 0.8 else rng.choice([0, 1, 1, 1, 1, most])
    flags = _fuzzed(rng, command, rng.randint(least, most), wrong)
    case = dataclasses.replace(case, args=(*command.words, *_joined(rng, base, flags)))
    if damaged and case.items:
        damage = [
            Damage(rng.choice(case.items), rng.random(), rng.randrange(2**32))
            for _ in range(rng.choice([1, 1, 1, 2, 3]))
        ]
        case = dataclasses.replace(case, damage=tuple(damage))
    return case


def _base(rng: random.Random, command: Command) -> tuple[str, ...]:
    if command.name in BASES:
        return tuple(rng.choice(BASES[command.name]))
    words = []
    for flag in command.flags:
        if flag.required:
            words += valid(rng, command, flag) if flag.positional else [f"--{flag.name}", *valid(rng, command, flag)]
    return tuple(words)


def _benchmark(rng: random.Random, command: Command) -> list[str]:
    """Return flags of `jaxcnn benchmark` that are refused, and rarely flags that are not."""
    if rng.random() < 0.01:
        return list(POSSIBLE_BENCHMARK)
    name, value = rng.choice(REFUSED_BENCHMARKS)
    others = dataclasses.replace(command, flags=tuple(flag for flag in command.flags if flag.name != name))
    base = [] if name == "model" else ["--model", "lenet5"]
    return [*base, *_fuzzed(rng, others, rng.randint(0, 4), rng.choice([0, 1, 4])), f"--{name}", value]


def _joined(rng: random.Random, base: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return the words of the base, then those of the flags. Words by position mostly replace those of the base."""
    words, given = list(base), list(flags)
    count = next((index for index, word in enumerate(words) if word.startswith("--")), len(words))
    if given and count and not given[0].startswith("--") and rng.random() < 0.9:
        words[rng.randrange(count)] = given.pop(0)
    return [*words, *given]


def _fuzzed(rng: random.Random, command: Command, count: int, wrong: int) -> list[str]:
    """Return the words of some flags, of which up to `wrong` have odd values or forms. The others are mostly valid."""
    by_position: list[str] = []
    words: list[str] = []
    for index in range(count):
        flag = rng.choice([flag for flag in command.flags if flag.name not in NEVER])
        given = _odd_flag(rng, command, flag) if index < wrong else _valid_flag(rng, command, flag)
        if flag.needs and rng.random() < 0.8:
            given += rng.choice(flag.needs)
        if flag.positional:
            by_position = given  # several are too many for most commands, whatever they are
        else:
            words += given
    if wrong > 1 and rng.random() < 0.1:
        words.append(rng.choice(TEXTS))
    return [] if starts_processes(words) else [*by_position, *words]


def _valid_flag(rng: random.Random, command: Command, flag: Flag) -> list[str]:
    if flag.name in STARTS_PROCESSES:
        return []
    value = valid(rng, command, flag)
    return value if flag.positional else [flag.option, *value]


def _odd_flag(rng: random.Random, command: Command, flag: Flag) -> list[str]:
    """Return a flag with an odd value, without its value, given twice, or with an odd form of its name."""
    value = draw(rng, command, flag)
    if flag.positional:
        return value
    name = flag.option
    if flag.hint is bool:
        name = rng.choice([name, name, f"--no-{flag.name}"])
        value = value if rng.random() < 0.3 else []
    form = rng.random()
    if form < 0.05:
        return [name, *value, *_odd_flag(rng, command, flag)]
    if form < 0.08 and len(name) > 6:
        at = rng.randrange(3, len(name))
        name = rng.choice([name[:at] + name[at + 1 :], name[:at], name[1:], name.upper()])
    elif form < 0.12:
        name = f"--{flag.name.replace('-', '_')}"
    elif form < 0.2 and value:
        return [f"{name}={value[0]}", *value[1:]]
    return [name, *value]
