"""`jaxcnn check`: examine the directory of a run for damage."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from jaxcnn.cli._flags import parse
from jaxcnn.cli._lines import columns
from jaxcnn.errors import printable
from jaxcnn.train.inspection import check_run


@dataclass(frozen=True)
class Flags:
    """Report which checkpoints and files of a run are sound, unchecked (without a checksum) or damaged.

    Nothing is changed. Exit status: 0 if nothing is damaged, 1 if something is, 2 if there is no run.
    """

    run: tyro.conf.Positional[str]
    """Run directory."""
    json: bool = False
    """Print the findings as JSON."""


def run(args: Sequence[str]) -> int:
    """Run `jaxcnn check`, and return its exit status."""
    flags = parse(Flags, "check", args)
    findings = check_run(flags.run)
    if flags.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        rows = [(finding.status, printable(finding.file), printable(finding.detail)) for finding in findings]
        print("\n".join(columns(rows, numbers_from=3)))
    return 1 if any(finding.status == "damaged" for finding in findings) else 0
