"""Write the metrics and pictures of a run for TensorBoard."""

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
    """Return whether the package tensorboardX is installed, which is needed to write TensorBoard's event files."""
    return importlib.util.find_spec("tensorboardX") is not None


class TensorBoard(Callback):
    """Write all metrics, named "train/loss", "test/accuracy" and so on, and all pictures to a TensorBoard event file.

    Each start or resumption of a run writes a new event file in the run directory. A resumed run repeats the steps
    after its checkpoint. TensorBoard ignores the values that earlier event files contain for the repeated steps.

    Every method raises `RunError` if the event file cannot be written.
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
            # tensorboardX's own writer is not used: its thread hangs on a full disk, and each flush waits for the disk.
            self._file = self._path.open("wb")
        self._write(file_version="brain.Event:2")
        # This event makes TensorBoard drop earlier values of the steps that the run repeats.
        self._write(step=run.first_step + 1, session_log=proto.SessionLog(status=proto.SessionLog.START))

    def on_rows(self, run: RunView, rows: list[Row]) -> None:
        for row in rows:
            # All values go into one event: the checksum of each event is computed in Python, which is slow.
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
            # If the file cannot be written, an earlier method has raised the error already.
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _write(self, **fields: Any) -> None:
        """Write an event as a TFRecord: its length and its data, each followed by a masked CRC-32C."""
        data = self._Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        checks = [struct.pack("<I", self._checksum(part)) for part in (length, data)]
        if self._file is not None:
            with writing(self._path):
                self._file.write(length + checks[0] + data + checks[1])

    def _flush(self) -> None:
        """Hand all events to the operating system, so that they are not lost if this process is killed."""
        if self._file is not None:
            with writing(self._path):
                self._file.flush()
