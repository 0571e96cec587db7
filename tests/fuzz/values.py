"""Values for flags: valid ones, so that a command does its work, and extreme, odd and wrong ones."""

import random
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from jaxcnn.models import list_models

from . import texts
from .schema import Command, Flag

# Valid values where the type does not say them. The key is a flag, or a command and a flag.
# Files and folders are those that `template.py` makes.
AUGMENTATIONS = (
    "flip",
    "alternating_flip",
    "shift:1",
    "shift_reflect:1",
    "crop:2",
    "cutout:4",
    "resized_crop",
    "randaugment",
    "trivialaugment",
)
KNOWN: Mapping[str, Sequence[str]] = {
    "model": ("lenet5",),
    # All but the deepest, of which tracing alone takes about 10 seconds. The small ones come more often.
    "summary model": [
        name
        for name in list_models()
        if not re.search(r"(1001|1202)_|bc190|bc250|net_b[3-7]|v2_[ml]|convnext_[sbl]|regnet_.*gf", name)
    ]
    + ["lenet5", "resnet20_cifar", "alexnet", "resnet18", "vgg11"] * 20,
    "convert model": ("lenet5", "resnet18", "squeezenet1_1"),
    "dataset": ("fashion_mnist_mini", "imagefolder:pictures"),
    "datasets show name": ("fashion_mnist_mini", "imagefolder:pictures", "mnist"),
    "datasets stats name": ("imagefolder:pictures", "fashion_mnist_mini"),
    "prepare name": ("mnist", "fashion_mnist_mini", "cifar10", "imagefolder:pictures", "kmnist"),
    "source": ("originals",),
    "workdir": ("run", "pictures_run", "new"),
    "train workdir": ("new", "run", "new/deeper"),
    "find-lr workdir": ("new", "new/deeper"),
    "sweep workdir": ("new", "new/deeper"),
    "seeds": ("1", "2", "3,5"),
    "how": ("turns", "together"),
    "out": ("out", "out.png", "out/deeper", "out.safetensors", "out.json"),
    "data-dir": ("../data", "../data/new"),
    "config": ("recipe.py",),
    "init-from": ("weights.safetensors", "weights.pth", "run"),
    "file": ("weights.safetensors", "weights.pth"),
    "images": ("images", "images/0.png", "images/1.jpg", "images/2.gif", "images/3.tif", "images/4.webp"),
    "image": ("images/0.png", "images/1.jpg"),
    "label": ("cat", "dog", "Coat"),
    "layer": ("Conv_0", "Conv_1", "conv1"),
    "old": ("results/old.json",),
    "new": ("results/new.json", "results"),
    "augment": AUGMENTATIONS,
    "model-options": ("num_classes=2", "width=8"),
    "freeze": ("(?!head)", "Conv_0"),
    "freeze-after": (".*=1", "Conv_0=0.5"),
    "whiten": ("C1/kernel", "Conv_0/kernel"),
    "optimizer.weight-decay-scales": (".*=0.1", "Conv_0=2"),
    "optimizer.name": ("sgd", "momentum", "adam", "lion"),
    "optimizer.learning-rate-scales": (".*=0.1", "Conv_0=2"),
    "schedule.name": ("constant", "step", "cosine", "linear", "polynomial", "onecycle", "triangle"),
    "loss": ("cross_entropy", "binary_cross_entropy"),
    "batch-sizes": ("1", "2,3", "auto"),
    "mode": ("train", "infer"),
    "benchmark dtype": ("float32",),
    "benchmark parallel": ("pmap", "jit"),
    "devices": ("1",),
    "steps-per-dispatch": ("1", "2"),
    "coordinator": ("localhost:1",),
    "pattern": ("*", "resnet*", "lenet5"),
}

# Numbers above these, up to 2^31, are valid but take long. A new flag that multiplies work needs a row.
AFFORDABLE = {
    "steps": 2,
    "epochs": 2,
    "seeds": 2,
    "try-steps": 25,
    "batch-size": 64,
    "image-size": 64,
    "resize": 64,
    "tensorboard-images": 2,
}
SHAPES_ONLY = ("summary",)  # commands that compute shapes, not arrays
# A number of processes that is accepted starts them. --distributed takes over its process.
STARTS_PROCESSES = ("processes", "num-processes", "devices-per-process")
NEVER = ("distributed",)


def draw(rng: random.Random, command: Command, flag: Flag) -> list[str]:
    """Return the words after a flag's name: mostly a value that is extreme, odd or wrong."""
    while True:
        words = _odd(rng, command, flag)
        if _affordable(command, flag, words):
            return words


def valid(rng: random.Random, command: Command, flag: Flag) -> list[str]:
    """Return the words of a value that the flag most likely accepts."""
    known = KNOWN.get(f"{command.name} {flag.name}", KNOWN.get(flag.name))
    if known is not None:
        several = get_origin(flag.hint) is tuple
        return [rng.choice(known) for _ in range(rng.choice([1, 1, 2, 3]) if several else 1)]
    return _of_type(rng, flag.hint, flag)


def _of_type(rng: random.Random, hint: Any, flag: Flag) -> list[str]:
    """Return the words of a value of a type."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is bool:
        return []
    if hint in (int, float):
        pool = [1, 2, 3, 4, 8, 28, 32] if hint is int else [0.0, 0.1, 0.5, 0.9, 1.0, 2.0]
        return [str(rng.choice([number for number in pool if flag.accepts(number)] or pool))]
    if hint is NoneType:
        return ["None"]
    if origin is Literal:
        return [str(rng.choice(parts))]
    if origin is tuple:
        kinds = [parts[0]] * rng.choice([0, 1, 1, 2, 3]) if parts[-1] is Ellipsis else parts
        return [word for kind in kinds for word in _of_type(rng, kind, flag)]
    if parts:
        return _of_type(rng, rng.choice(parts), flag)
    if hint is Any:
        return [rng.choice(["0.9", "True", "None", "1e-6", "bfloat16", "(1.0, 2.0)"])]
    return [rng.choice(["x", "new", "1"])]


def _odd(rng: random.Random, command: Command, flag: Flag) -> list[str]:
    """Return words that are extreme, odd or wrong for a flag."""
    way = rng.random()
    if way < 0.15:
        return [_misspelled(rng, word) for word in valid(rng, command, flag)] or ["x"]
    if way < 0.2:
        return []
    if way < 0.25:
        return [word for _ in range(2) for word in (*valid(rng, command, flag), _any_text(rng))]
    if way < 0.45 and command.name == "summary" and flag.positional:
        return [rng.choice(texts.ATTRIBUTES)]
    if way < 0.7 and any(kind in _scalars(flag.hint) for kind in (int, float)):
        return [_any_number(rng) for _ in range(rng.choice([1, 1, 1, 3]))]
    if way < 0.8 and (known := valid(rng, command, flag)):
        return [f"{known[0].split(':')[0]}{rng.choice(':=,/. ')}{rng.choice([_any_number(rng), _any_text(rng)])}"]
    return [_any_text(rng)]


def _scalars(hint: Any) -> list[Any]:
    """Return the types without arguments in a type."""
    return [kind for part in get_args(hint) for kind in _scalars(part)] or [hint]


def _any_number(rng: random.Random) -> str:
    pools = (texts.INTEGERS, texts.INTEGERS, texts.HUGE_INTEGERS, texts.FLOATS, texts.FLOATS, texts.ODD_NUMBERS)
    return str(rng.choice(rng.choice(pools)))


def _any_text(rng: random.Random) -> str:
    return rng.choice(texts.TEXTS) if rng.random() < 0.9 else _any_number(rng)


def _misspelled(rng: random.Random, word: str) -> str:
    """Return a word with one letter dropped, doubled, swapped or changed, or in upper case."""
    if not word:
        return "x"
    at = rng.randrange(len(word))
    return rng.choice(
        [
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + word[at:][1:2] + word[at] + word[at:][2:],
            word[:at] + rng.choice("abcxyz_-0\u00e9") + word[at + 1 :],
            word.upper(),
            word[: at + 1],
        ]
    )


def _affordable(command: Command, flag: Flag, words: Sequence[str]) -> bool:
    """Return whether a flag with these words starts neither long work nor processes."""
    for word in words:
        if command.name == "sweep" and word.count(",") > 1:
            return False  # a network for each value
        number = _number(word)
        if number is None:
            continue
        if flag.name in STARTS_PROCESSES and number >= 1:
            return False
        most = AFFORDABLE.get(flag.name)
        if most is not None and command.name not in SHAPES_ONLY and most < number < 2**31 and flag.accepts(number):
            return False
    return True


def starts_processes(args: Sequence[str]) -> bool:
    """Return whether a command line asks for processes, such as by `--processes` and a text that came after it."""
    words = [word for arg in args for word in arg.split("=", 1)]
    for word, value in pairwise(words):
        number = _number(value)
        if word.lstrip("-").replace("_", "-") in STARTS_PROCESSES and number is not None and number >= 1:
            return True
    return False


def _number(word: str) -> float | int | None:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return None
