"""What a run leaves for later reading: a line of JSON for every step and test, and TensorBoard events."""

import contextlib
import json
import logging
import os
import socket
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from jaxcnn.train.runtime._tracking import WeightsAndBiases
from jaxcnn.train.runtime.workdir import METRICS, replacing, writing

Row = dict[str, Any]

_log = logging.getLogger(__name__)


def read_rows(workdir: Path) -> list[Row]:
    """The rows of a run's `metrics.jsonl`, oldest first; a last line that was cut off is left out."""
    path = workdir / METRICS
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class Record:
    """Writes `metrics.jsonl` and TensorBoard events in a run's folder.

    A row has `split` ("train" or "test"), `step` (updates made so far), `epoch`, `loss`, `accuracy` and, in
    training, `learning_rate`, in testing, `examples`. Rows from after `first_step`, left by a run that was cut off,
    are dropped, since these steps are made again: each step stands there once. Rows that should be there and are
    not, since somebody has changed the file, are reported in one warning.

    A `mirror` gets each row too.

    Every method raises `RunError` if the files cannot be written.
    """

    def __init__(self, workdir: Path, first_step: int, mirror: WeightsAndBiases | None = None):
        self._mirror = mirror
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import masked_crc32c

        proto: Any = event_pb2  # its classes come into being when it is imported; a type checker sees none

        self._Summary = cast(Any, summary_pb2).Summary
        self._path, self._Event, self._checksum = workdir / METRICS, proto.Event, masked_crc32c
        kept = [row for row in read_rows(workdir) if row["step"] <= first_step]
        lost = first_step - len({row["step"] for row in kept if row["split"] == "train"})
        if lost:
            _log.warning("%s lacks %d of the %d steps made so far; they stay out of it", self._path, lost, first_step)
        with writing(self._path):
            with replacing(self._path) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
            self._file = self._path.open("a")
            # Written here and now: tensorboardX's own thread waits for ever when a disk is full, and its writer waits
            # for the disk each time that it is flushed.
            name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{first_step}"
            self._events = (workdir / name).open("wb")
            self._write_event(file_version="brain.Event:2")
            # TensorBoard then forgets what earlier files say of the steps that are made again.
            self._write_event(step=first_step + 1, session_log=proto.SessionLog(status=proto.SessionLog.START))

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mirror is not None:
            self._mirror.close(failed=error is not None)
        # An error of writing was raised by `write` or `flush` already.
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._events.close()

    def write(self, row: Row) -> None:
        """Writes one row; `flush` makes sure that it has reached the files."""
        with writing(self._path):
            self._file.write(json.dumps(row) + "\n")
            # One event for all values: the checksum of each event is worked out in Python.
            values = [
                self._Summary.Value(tag=f"{row['split']}/{name}", simple_value=value)
                for name, value in row.items()
                if name not in ("split", "step", "epoch", "examples")
            ]
            self._write_event(step=row["step"], summary=self._Summary(value=values))
        if self._mirror is not None:
            self._mirror.write(row)

    def write_picture(self, name: str, step: int, png: bytes) -> None:
        """Writes a picture for TensorBoard."""
        width, height = struct.unpack(">II", png[16:24])  # of the PNG's first chunk
        image = self._Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        with writing(self._path):
            self._write_event(step=step, summary=self._Summary(value=[self._Summary.Value(tag=name, image=image)]))

    def _write_event(self, **fields: Any) -> None:
        """Writes an event as a record of TensorFlow: length and data, each with its masked CRC-32C."""
        data = self._Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        checks = [struct.pack("<I", self._checksum(part)) for part in (length, data)]
        self._events.write(length + checks[0] + data + checks[1])

    def flush(self) -> None:
        """Hands all rows to the operating system: they stay even if this process is killed."""
        with writing(self._path):
            self._file.flush()
            self._events.flush()

    def sync(self) -> None:
        """Makes sure that all rows are on the disk: they stay even if the machine is switched off."""
        self.flush()
        with writing(self._path):
            for file in (self._file, self._events):
                os.fsync(file.fileno())
