"""Find the arrays of a model in a file: by their names in jaxcnn, torchvision or timm."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import flax.linen as nn

from jaxcnn.errors import UsageError
from jaxcnn.weights import layout
from jaxcnn.weights._stored import Stored
from jaxcnn.weights.names import FLATTENED_CHANNELS, OLD_NAMES, TIMM, TORCHVISION, Names
from jaxcnn.weights.naming.timm import ADDED_TO_VARIANCE


@dataclass(frozen=True)
class Location:
    """Location in a file of one array of a model.

    Attributes:
      name: name of the array in the file.
      flattened_channels: for the kernel of a dense layer after a flattened feature map, the number of channels of this
        feature map; None for all other arrays. See `jaxcnn.weights.layout`.
      same_layout: whether the file has the memory layout of jaxcnn instead of the layout of torch.
      added: number that is added to the array from the file.
    """

    name: str
    flattened_channels: int | None
    same_layout: bool
    added: float = 0.0


def module_of(name: str) -> str:
    """Return the path of the module that the array `name` belongs to."""
    return name.partition("/")[2].rpartition("/")[0]


def is_named(name: str, names: Names) -> bool:
    """Return whether `names` has a torch name for the array `name` or its module."""
    return name.partition("/")[2] in names or module_of(name) in names


def torch_name(name: str, names: Names) -> str:
    """Return the torch name of the array `name`."""
    _, _, path = name.partition("/")
    if path in names:
        return names[path]
    field = name.rpartition("/")[2]
    return f"{names[module_of(name)]}.{layout.FIELDS.get(field, field)}"


def modern_names(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return the arrays with names of old torch versions replaced by the current names."""
    old, new = OLD_NAMES
    return {old.sub(new, name): array for name, array in stored.items()}


def schemes(model_name: str, model: nn.Module, ours: Iterable[str]) -> list[dict[str, Location]]:
    """Return one dict for each naming scheme (jaxcnn, torchvision, timm) that has names for the model.

    A dict maps the name of each array in jaxcnn to the location of the array in a file with this naming scheme.
    """
    ours = list(ours)
    found = [{name: Location(name, None, True) for name in ours}]
    channels = FLATTENED_CHANNELS.get(model_name, {})
    for library in (TORCHVISION, TIMM):
        if model_name in library:
            names = library[model_name](model)
            added = ADDED_TO_VARIANCE.get(model_name, 0.0) if library is TIMM else 0.0
            found.append(
                {
                    name: Location(
                        *(torch_name(name, names), channels.get(module_of(name)), False),
                        added=added if name.endswith("/var") else 0.0,
                    )
                    for name in ours
                    if is_named(name, names)
                }
            )
    return found


def best_scheme(model_name: str, found: list[dict[str, Location]], stored: Mapping[str, Stored]) -> dict[str, Location]:
    """Return the naming scheme in `found` that matches the most names in the file.

    Raises:
      UsageError: if no scheme matches any name.
    """

    def matches(locations: dict[str, Location]) -> int:
        return sum(location.name in stored for location in locations.values())

    best = max(found, key=matches)
    if matches(best) == 0:
        example = next(iter(stored), "no array")
        known = "jaxcnn, torchvision, timm" if model_name in TORCHVISION else "jaxcnn"
        raise UsageError(
            f"the array names in the file do not match {model_name} (names of {known}): {example[:60]!r}. "
            "Check the model name and the file."
        )
    return best
