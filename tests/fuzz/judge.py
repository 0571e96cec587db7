"""What counts as an answer of the command line: success, or one line that says what is wrong and leaves no trace."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

Snapshot = dict[str, str]
"""What is at each path of a folder: "folder", where a link leads, or the size and hash of a file."""

# A traceback, or what Python and C++ print when they end a process.
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)|^Fatal Python error|^Exception ignored in", re.MULTILINE)
# Names of files that are written and then renamed, here and in Orbax.
_TEMPORARY = re.compile(r"\.part\b|\.tmp\b|orbax-checkpoint-tmp|\.incomplete|/\.[\w.]+[.-]\w{6,}$|\.rows\.\w+\.\d+$")
# tensorflow-datasets keeps a folder until the process ends; onnxruntime keeps files from when it is imported.
_KEPT_BY_OTHERS = re.compile(r"temporary/(tmp\w*tfds|\.ses)$|home/\.cache(/Microsoft|$)")
# A refused command may leave this: a folder of images that was converted for it is kept for the next one.
_CONVERTED = re.compile(r"(^|/)imagefolder_[0-9a-f_]+(/|$)")
MAX_MESSAGE = 2000


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
      status: the exit status, or None if there was none.
      exception: the traceback of an exception that the command let out.
      ended: how the process ended, or why it was killed, if it did not answer.
      stdout: what the command printed.
      stderr: what the command printed to standard error.
      seconds: wall-clock time.
      peak: resident memory in bytes at its peak.
      damage: descriptions of the damage to the case's files.
    """

    status: int | None
    exception: str | None
    ended: str
    stdout: str
    stderr: str
    seconds: float
    peak: int
    damage: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with an outcome.

    Attributes:
      kind: "exception", "traceback", "killed", "message", "status", "files" or "temporary files".
      cause: the part that cases with the same cause have in common.
      detail: what was found.
    """

    kind: str
    cause: str
    detail: str


def snapshot(folder: Path) -> Snapshot:
    """Return what is at each path in a folder."""
    found: Snapshot = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            found[os.path.relpath(path, folder)] = _describe(path)
    return found


def _describe(path: str) -> str:
    if os.path.islink(path):
        return f"link to {os.readlink(path)}"
    if os.path.isdir(path):
        return "folder"
    with open(path, "rb") as file:
        content = file.read()
    return f"{len(content)} {hashlib.blake2b(content, digest_size=8).hexdigest()}"


def faults_of(args: Sequence[str], outcome: Outcome, before: Snapshot, after: Snapshot) -> list[Fault]:
    """Return what is wrong with how a command ended and with what it left."""
    if outcome.exception is not None:
        return [Fault("exception", cause_of(outcome.exception), outcome.exception)]
    if outcome.ended:
        place = _innermost(outcome.stderr) or "no Python frame"
        return [Fault("killed", f"{outcome.ended} at {place}", outcome.stderr[-3000:])]
    return [*_printed(args, outcome), *_left(outcome, before, after)]


def _printed(args: Sequence[str], outcome: Outcome) -> list[Fault]:
    for text in (outcome.stdout, outcome.stderr):
        if found := _TRACEBACK.search(text):
            return [Fault("traceback", cause_of(text[found.start() :]), text[-3000:])]
    lines = [line for line in outcome.stderr.splitlines() if line.strip()]
    if outcome.status == 0:
        return []
    if outcome.status == 1:  # other output may precede the line
        lines = lines[-1:]
    elif outcome.status != 2:
        return [Fault("status", f"status {outcome.status}", outcome.stderr[-1000:])]
    if len(lines) != 1 or not lines[0].startswith("jaxcnn: "):
        first = re.sub(r"\d+|'[^']*'", "_", (lines or ["nothing"])[0])[:80]
        return [Fault("message", f"{len(lines)} lines: {first}", outcome.stderr[-3000:])]
    if re.match(r"jaxcnn: ([;:,.](\s|$)|\s|$)", lines[0]):  # a path of the user's may begin with any character
        return [Fault("message", "a message without a beginning", lines[0])]
    if len(lines[0]) > MAX_MESSAGE + 3 * sum(map(len, args)):
        return [Fault("message", f"a long line: {lines[0][:60]}", lines[0])]
    return []


def _left(outcome: Outcome, before: Snapshot, after: Snapshot) -> list[Fault]:
    new = sorted(path for path in after.keys() - before.keys() if not _KEPT_BY_OTHERS.match(path))
    temporary = [path for path in new if _TEMPORARY.search(path) or path.startswith("temporary/")]
    if temporary:
        return [Fault("temporary files", f"left {_general(temporary[0])}", ", ".join(temporary[:10]))]
    if outcome.status != 2:
        return []
    changed = [path for path in sorted(before) if after.get(path) != before[path]]
    kept = {part for path in new if _CONVERTED.search(path) for part in (path, *map(str, Path(path).parents))}
    different = [path for path in (*new, *changed) if path not in kept]
    if not different:
        return []
    how = "new" if different[0] in new else "gone" if different[0] not in after else "changed"
    return [Fault("files", f"{how} after a refusal: {_general(different[0])}", ", ".join(different[:10]))]


def _general(path: str) -> str:
    """Return a path with what is random in it replaced."""
    return re.sub(r"[0-9a-f]{8,}|\d{3,}|(?<=tmp)\w+", "_", path)[:80]


def cause_of(trace: str) -> str:
    """Return the type of an exception and the place in jaxcnn that it comes from."""
    lines = [line for line in trace.strip().splitlines() if line and not line.startswith((" ", "|"))]
    last = next(
        (line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt|\w*)(:|$)", line)), ""
    )
    name, _, message = last.partition(":")
    return f"{name.rsplit('.', 1)[-1]} at {_innermost(trace) or message.strip()[:60]}"


def _innermost(trace: str) -> str | None:
    """Return the innermost frame in jaxcnn of a traceback, or of a dump of faulthandler, which is inside out."""
    frames = re.findall(r'File "[^"]*?/(jaxcnn/[^"]+)", line (\d+),? in (\S+)', trace)
    if not frames:
        return None
    path, _, function = frames[0] if "most recent call first" in trace else frames[-1]
    return f"{path}:{function}"
