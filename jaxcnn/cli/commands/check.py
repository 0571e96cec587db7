"""`jaxcnn check`: examine the files of a run directory for damage."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from jaxcnn.cli._flags import parse
from jaxcnn.cli._lines import columns
from jaxcnn.errors import RunError, printable
from jaxcnn.train.inspection import check_run


@dataclass(frozen=True)
class Flags:
    """Report which checkpoints and files of a run are sound, damaged, or unchecked because they have no checksum.

    The command changes no file. The exit status is 0 if no file is damaged, 1 if a file is damaged, and 2 if the
    directory contains no run.
    """

    run: tyro.conf.Positional[str]
    """Run directory."""
    json: bool = False
    """Print the findings as JSON."""


def run(args: Sequence[str]) -> None:
    """Run `jaxcnn check`.

    Raises:
      UsageError: if the directory contains no run.
      RunError: if a file is damaged. The findings are printed before this error is raised.
    """
    flags = parse(Flags, "check", args)
    findings = check_run(flags.run)
    if flags.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        rows = [(finding.status, printable(finding.file), printable(finding.detail)) for finding in findings]
        print("\n".join(columns(rows, numbers_from=3)))
    damaged = [finding.file for finding in findings if finding.status == "damaged"]
    if damaged:
        raise RunError(f"{flags.run} is damaged: {', '.join(damaged)}")
