"""Campaigns of faults, each with a report. Exit status 1 if there is any failure.

    python tests/faults/campaign.py NAME --seed 0 [--count N] [--minutes M] [--lines FILE] [--report FILE]

A trial is repeated by the seed and its number. Each adds a JSON line to `--lines`, so that the same command continues
there. The report goes to `tests/faults/reports/NAME.json`.
"""

import importlib
import sys
from collections.abc import Callable


def main() -> int:
    name, words = "".join(sys.argv[1:2]), sys.argv[2:]
    if name not in CAMPAIGNS:
        sys.exit(f"{__doc__}\nNAME is one of: {', '.join(CAMPAIGNS)}")
    return CAMPAIGNS[name](words)


def of_module(name: str) -> Callable[[list[str]], int]:
    """Return the campaign that is the function `main` of a module, which is imported when it is called."""
    return lambda words: importlib.import_module(name).main(words)


CAMPAIGNS: dict[str, Callable[[list[str]], int]] = {
    "damage": of_module("damage_campaign"),
    "elastic": of_module("live.elastic"),
    "hangs": of_module("live.hangs"),
    "injection": of_module("corruption.campaign"),
    "kills": of_module("live.kills"),
    "soak": of_module("live.soak"),
    "storage": of_module("storage.campaign"),
}

if __name__ == "__main__":
    sys.exit(main())
