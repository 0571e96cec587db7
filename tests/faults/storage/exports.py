"""Commands that write files outside of a run directory, on a disk that fails in the middle."""

import errno
import random
from pathlib import Path

from killing import Ended

from storage.bench import Bench

COMMANDS = {
    "export": (["export", "--format", "stablehlo", "--out"], "out.stablehlo"),
    "convert": (["convert", "--out"], "out.safetensors"),
    "visualize": (["visualize", "filters", "--out"], "pictures"),
}
"""Arguments, and the name of what is written."""


def run(bench: Bench, command: str, chance: random.Random, note: list[str]) -> tuple[Ended, bool, list[str]]:
    """Let a command fail in the middle, and return how it ended, whether a call failed, and what was wrong.

    A file is there as a whole or not at all, and the same command writes it then.
    """
    operation, error = chance.choice(("create", "write", "sync", "rename")), chance.choice((errno.ENOSPC, errno.EIO))
    after, kind = chance.choice((0, 0, 1, 2)), chance.choice(("fail", "short")) if operation == "write" else "fail"
    note.append(f"{operation}: {errno.errorcode[error]}, {kind}, after {after}")
    folder = bench.folder / "out"
    folder.mkdir()
    words, name = COMMANDS[command]
    args = [*words, str(folder / name)]
    bench.shim.plan(str(folder), "", operation, error=error, after=after, kind=kind)
    ended = bench.worker.run(bench.finished, args=args)
    reached = bench.shim.hits > 0
    left = contents(folder)
    bench.shim.reset()
    again = bench.worker.run(bench.finished, args=args)
    whole = contents(folder)
    failures = []
    if again.status:
        failures.append(f"the same command ended with {again.status}: {again.errors.strip()[-500:]}")
    failures += [f"{name} is half-written" for name in left if left[name] != whole.get(name)]
    if ended.status == 0 and left != whole:
        failures.append("it ended with 0, but something is missing")
    return ended, reached, failures


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files in a folder by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
