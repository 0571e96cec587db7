"""Builds `shim.c`, and plans which calls of the C library fail in processes that have it."""

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

OPERATIONS = {"create": 1, "write": 2, "sync": 4, "rename": 8, "mkdir": 16, "read": 32, "lock": 64}
KINDS = {"fail": 0, "short": 1, "lie": 2}
PLAN = struct.Struct("iiiiiidl256s256s")
VARIABLE = "JAXCNN_SHIM"
HITS_AT = 20  # the sixth field
CLOCK_AT = 32


class Shim:
    """The library for LD_PRELOAD, and the plan that processes with it follow.

    Args:
      folder: of the library and the plan.

    Raises:
      FileNotFoundError: if there is no C compiler.
    """

    def __init__(self, folder: Path):
        compiler = shutil.which("cc")
        if compiler is None:
            raise FileNotFoundError("no C compiler")
        self._library, self._path = folder / "shim.so", folder / "plan"
        source = str(Path(__file__).with_name("shim.c"))
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(self._library), source, "-ldl"], check=True)
        self._path.write_bytes(bytes(PLAN.size))
        self._path.chmod(0o666)
        with self._path.open("r+b") as file:
            self._plan = mmap.mmap(file.fileno(), PLAN.size)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a process that follows the plan."""
        return {"LD_PRELOAD": str(self._library), VARIABLE: str(self._path)}

    def plan(
        self,
        root: str,
        name: str = "",
        *operations: str,
        error: int = 0,
        after: int = 0,
        times: int = -1,
        kind: str = "fail",
        delay: float = 0.0,
    ) -> None:
        """Let calls on paths that contain both `root` and `name` fail from now on; see `shim.c`."""
        bits = sum(OPERATIONS[operation] for operation in operations)
        texts = (os.fsencode(root), os.fsencode(name))
        self._plan[:] = PLAN.pack(bits, error, after, times, KINDS[kind], 0, delay, self.clock, *texts)

    def reset(self) -> None:
        """Let all calls go well, at the right time of day."""
        self._plan[:] = bytes(PLAN.size)

    @property
    def hits(self) -> int:
        """Number of calls that the plan was about, so far."""
        return struct.unpack_from("i", self._plan, HITS_AT)[0]

    @property
    def clock(self) -> int:
        """Seconds that processes see added to the time of day."""
        return struct.unpack_from("l", self._plan, CLOCK_AT)[0]

    @clock.setter
    def clock(self, seconds: int) -> None:
        struct.pack_into("l", self._plan, CLOCK_AT, seconds)
