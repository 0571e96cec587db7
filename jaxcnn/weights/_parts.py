"""Find the part of a file that contains the arrays of a model.

Checkpoints store a state dict under a key ("state_dict", "model_ema"). Names in a state dict have prefixes for modules
that contain the model ("module.", "_orig_mod.", "encoder_q."). The key and the prefix of a state dict both appear as a
prefix of the array names. The part is chosen as the prefix whose names fit the model best.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.weights._stored import Stored

# Words for copies of a network: averages of its weights, and teachers from which the network learns.
_COPIES = ("ema", "swa", "averag", "moment", "teacher", "target", "encoder_k", "shadow")

# Keys and prefixes for the network itself, so that "state_dict.fc.bias" is preferred to "best.fc.bias".
_NETWORK = frozenset(
    (
        *("state_dict", "model_state_dict", "model_state", "params", "weights"),
        *("model", "net", "network", "module", "_orig_mod"),
        *("backbone", "encoder", "encoder_q", "student"),
    )
)


class Part(NamedTuple):
    """The arrays in one part of a file.

    Attributes:
      arrays: the arrays, by their names in this part.
      name: path of the part, or "" for the whole file.
      others: paths of the parts that fit the model equally well but were not chosen.
    """

    arrays: dict[str, Stored]
    name: str
    others: tuple[str, ...]


def find_part(stored: Mapping[str, Stored], schemes: Iterable[Collection[str]], asked: str | None = None) -> Part:
    """Return the part of a file that contains the most array names of a model.

    If several parts contain equally many names, the network itself is preferred to its copies, such as moving averages.

    Args:
      stored: the arrays in the file.
      schemes: the names of the model's arrays, as one collection for each naming scheme (jaxcnn, torchvision, timm).
      asked: path of the part in which to search, such as "model_ema". Default: the whole file.

    Raises:
      UsageError: if the part `asked` contains no array of the model, or several parts fit equally well.
    """
    counts: Counter[str] = Counter()
    for names in schemes:
        found = _count(stored, names)
        if max(found.values(), default=0) > max(counts.values(), default=0):
            counts = found
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    if asked is not None:
        inside = {prefix: count for prefix, count in counts.items() if _is_inside(prefix, asked)}
        if not inside:
            raise unknown_name("part of the file", asked, [prefix.removesuffix(".") for prefix in best])
        best = [prefix for prefix, count in inside.items() if count == max(inside.values())]
    if not best:
        return Part(dict(stored), "", ())
    ranked = sorted(best, key=_rank)
    names = [prefix.removesuffix(".") for prefix in ranked]
    if len(ranked) > 1 and _rank(ranked[0])[:2] == _rank(ranked[1])[:2]:
        raise UsageError(
            f"several parts of the file fit: {', '.join(map(repr, names[:6]))}. "
            'Choose one with part="..." (--part in `jaxcnn convert`).'
        )
    chosen = ranked[0]
    arrays = {name.removeprefix(chosen): array for name, array in stored.items() if name.startswith(chosen)}
    return Part(arrays, names[0], tuple(names[1:]))


def _count(stored: Iterable[str], names: Collection[str]) -> Counter[str]:
    """Return, for each prefix, the number of arrays whose name is this prefix followed by a name of the model."""
    counts: Counter[str] = Counter()
    for name in stored:
        start = 0
        while start >= 0:
            if name[start:] in names:
                counts[name[:start]] += 1
            start = name.find(".", start) + 1 or -1
    return counts


def _is_inside(prefix: str, asked: str) -> bool:
    asked = asked.removesuffix(".")
    return prefix.removesuffix(".") == asked or prefix.startswith(f"{asked}.")


def _rank(prefix: str) -> tuple[int, int, str]:
    """Return the sort key of a part: (words for copies, unknown words, prefix). The lowest key is chosen."""
    words = [word for word in prefix.split(".") if word]
    copies = sum(any(copy in word.lower() for copy in _COPIES) for word in words)
    unknown = sum(word not in _NETWORK for word in words)
    return copies, unknown, prefix
