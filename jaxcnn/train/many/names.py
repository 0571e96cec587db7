"""Name the networks of a sweep by the fields in which their configurations differ."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.errors import UsageError
from jaxcnn.train.config import Config, to_dict
from jaxcnn.train.config.compare import NOT_PART_OF_THE_RUN

LONGEST_NAME = 120
"""Largest length of a name in bytes. Longer names are cut and end in a hash. File systems allow 255 bytes."""


def fields_of(config: Config) -> dict[str, Any]:
    """Return the fields of a configuration that can change the results of a run, as a dict with dotted names.

    >>> fields_of(Config(seed=3))["optimizer.learning_rate"], fields_of(Config(seed=3))["seed"]
    (0.05, 3)
    """
    values = {name: value for name, value in to_dict(config).items() if name not in NOT_PART_OF_THE_RUN}
    return _flat(values, "")


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    # Name the keyword arguments of an optimizer like its other fields.
    return {name.replace("optimizer.options.", "optimizer."): value for name, value in flat.items()}


def differing(configs: Sequence[Config]) -> list[str]:
    """Return the names of the fields in which configurations differ. If seeds differ, the first name is "seed".

    >>> differing([Config(seed=0), Config(seed=1, batch_size=32)])
    ['seed', 'batch_size']
    """
    every = [fields_of(config) for config in configs]
    names = dict.fromkeys(name for fields in every for name in fields)
    missing = object()
    found = [name for name in names if len({_text(fields.get(name, missing)) for fields in every}) > 1]
    return sorted(found, key=lambda name: name != "seed")


def directory_names(configs: Sequence[Config]) -> list[str]:
    """Return a directory name for each configuration: its seed, and the fields in which the configurations differ.

    >>> directory_names([Config(seed=1), Config(seed=1, model="lenet1")])
    ['seed=1,model=lenet5', 'seed=1,model=lenet1']

    Raises:
      UsageError: if two configurations are equal.
    """
    names = list(dict.fromkeys(["seed", *differing(configs)]))
    chosen: dict[str, int] = {}
    for index, config in enumerate(configs):
        name = _file_name(describe(config, names))
        if name in chosen:  # two names may be equal after forbidden characters are replaced
            if fields_of(config) == fields_of(configs[chosen[name]]):
                raise UsageError(
                    f"configurations {chosen[name]} and {index} are the same run: {name}. Remove one of them."
                )
            name = f"{name}-{_hash(json.dumps(fields_of(config)))}"
        chosen[name] = index
    return list(chosen)


def describe(config: Config, names: Sequence[str]) -> str:
    """Return the fields `names` of a configuration as text.

    >>> describe(Config(), ["seed", "optimizer.learning_rate"])
    'seed=0,optimizer.learning_rate=0.05'
    """
    fields = fields_of(config)
    return ",".join(f"{name}={_text(fields.get(name))}" for name in names)


def _text(value: Any) -> str:
    """Return a value as text. The items of a list are joined by "+", since a comma separates fields."""
    return "+".join(map(_text, value)) if isinstance(value, list) else str(value)


def _file_name(text: str) -> str:
    safe = re.sub(r"[^\w.,=+:-]", "_", text)
    return safe if len(safe.encode()) <= LONGEST_NAME else f"{safe[: LONGEST_NAME // 2]}-{_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
