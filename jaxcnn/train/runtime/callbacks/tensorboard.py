"""TensorBoard events of a run."""

import contextlib
import importlib.util
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any, cast

from jaxcnn.train.callbacks import Callback, RunView
from jaxcnn.train.runtime.record import Row, numbers_to_plot
from jaxcnn.train.runtime.workdir import writing

_NOT_PLOTTED = ("epoch", "examples")


def has_tensorboard() -> bool:
    """Return whether tensorboardX, whose messages events consist of, is installed."""
    return importlib.util.find_spec("tensorboardX") is not None


class TensorBoard(Callback):
    """Writes the numbers of all rows, as "train/loss", "test/accuracy" and so on, and pictures, to an event file.

    Each start of a run writes a file of its own in the run directory. If the run is resumed, TensorBoard drops what
    earlier files contain of the steps that are repeated.

    Every method raises `RunError` if the file cannot be written.
    """

    def __init__(self):
        self._path, self._file = Path(), None

    def on_start(self, run: RunView) -> None:
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import masked_crc32c

        proto: Any = event_pb2  # type checkers do not see protobuf's classes, which are created at import
        self._Summary, self._Event, self._checksum = cast(Any, summary_pb2).Summary, proto.Event, masked_crc32c
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{run.first_step}"
        self._path = run.folder / name
        with writing(self._path):
            # Not by tensorboardX's writer: its thread hangs on a full disk, and each flush waits for the disk.
            self._file = self._path.open("wb")
        self._write(file_version="brain.Event:2")
        # Makes TensorBoard drop the steps that are repeated.
        self._write(step=run.first_step + 1, session_log=proto.SessionLog(status=proto.SessionLog.START))

    def on_rows(self, run: RunView, rows: list[Row]) -> None:
        for row in rows:
            # One event for all values, since Python computes a checksum per event.
            values = [
                self._Summary.Value(tag=f"{row['split']}/{name}", simple_value=value)
                for name, value in numbers_to_plot(row).items()
                if name not in _NOT_PLOTTED
            ]
            self._write(step=row["step"], summary=self._Summary(value=values))
        self._flush()

    def on_picture(self, run: RunView, name: str, png: bytes) -> None:
        width, height = struct.unpack(">II", png[16:24])  # from the header of the PNG
        image = self._Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        self._write(step=run.step, summary=self._Summary(value=[self._Summary.Value(tag=name, image=image)]))
        self._flush()

    def on_save(self, run: RunView) -> None:
        self._flush()
        if self._file is not None:
            with writing(self._path):
                os.fsync(self._file.fileno())

    def on_end(self, run: RunView, failed: bool) -> None:
        if self._file is not None:
            # Another method has raised an error of writing already.
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _write(self, **fields: Any) -> None:
        """Write an event as a TFRecord: length and data, each followed by its masked CRC-32C."""
        data = self._Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        checks = [struct.pack("<I", self._checksum(part)) for part in (length, data)]
        if self._file is not None:
            with writing(self._path):
                self._file.write(length + checks[0] + data + checks[1])

    def _flush(self) -> None:
        """Hand all events to the operating system: they survive a kill of this process."""
        if self._file is not None:
            with writing(self._path):
                self._file.flush()
