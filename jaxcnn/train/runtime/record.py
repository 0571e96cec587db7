"""Metrics of a run: a JSON line for every step and test, TensorBoard events, and Weights & Biases."""

import contextlib
import json
import logging
import os
import secrets
import socket
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from jaxcnn.errors import UsageError
from jaxcnn.train.config import Config, to_dict
from jaxcnn.train.runtime import workdir
from jaxcnn.train.runtime.workdir import METRICS, replacing, writing

WANDB = "wandb.json"

Row = dict[str, Any]

_log = logging.getLogger(__name__)


def read_rows(folder: Path) -> list[Row]:
    """Return the rows of a run's `metrics.jsonl`, oldest first. Rows from the first incomplete line on are left out."""
    path = folder / METRICS
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
    """Writes `metrics.jsonl` and TensorBoard events in a run directory.

    A row has `split` ("train" or "test"), `step` (number of steps made), `epoch`, `loss` and `accuracy`; a training row
    also has `learning_rate`, and a test row `examples`.

    When a run is resumed at `first_step`, rows of later steps are dropped, since these steps are made again: the file
    contains each step once. Rows that are missing, because somebody edited the file, are reported in one warning.

    Every method raises `RunError` if the files cannot be written.

    Args:
      folder: the run directory.
      first_step: number of steps that the run has made.
      mirror: if given, gets each row too.
    """

    def __init__(self, folder: Path, first_step: int, mirror: "WeightsAndBiases | None" = None):
        self._mirror = mirror
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import masked_crc32c

        proto: Any = event_pb2  # type checkers do not see protobuf's classes, which are created at import

        self._Summary = cast(Any, summary_pb2).Summary
        self._path, self._Event, self._checksum = folder / METRICS, proto.Event, masked_crc32c
        kept = [row for row in read_rows(folder) if row["step"] <= first_step]
        lost = first_step - len({row["step"] for row in kept if row["split"] == "train"})
        if lost:
            _log.warning("%s lacks %d of the %d steps made so far", self._path, lost, first_step)
        with writing(self._path):
            with replacing(self._path) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
            self._file = self._path.open("a")
            # Not by tensorboardX's writer: its thread hangs on a full disk, and each flush waits for the disk.
            name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{first_step}"
            self._events = (folder / name).open("wb")
            self._write_event(file_version="brain.Event:2")
            # Makes TensorBoard drop what earlier files contain of the steps that are made again.
            self._write_event(step=first_step + 1, session_log=proto.SessionLog(status=proto.SessionLog.START))

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mirror is not None:
            self._mirror.close(failed=error is not None)
        # `write` or `flush` has raised an error of writing already.
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._events.close()

    def write(self, row: Row) -> None:
        """Write one row. It may stay in a buffer until `flush`."""
        with writing(self._path):
            self._file.write(json.dumps(row) + "\n")
            # One event for all values, since Python computes a checksum per event.
            values = [
                self._Summary.Value(tag=f"{row['split']}/{name}", simple_value=value)
                for name, value in row.items()
                if name not in ("split", "step", "epoch", "examples")
            ]
            self._write_event(step=row["step"], summary=self._Summary(value=values))
        if self._mirror is not None:
            self._mirror.write(row)

    def write_picture(self, name: str, step: int, png: bytes) -> None:
        """Write a picture for TensorBoard."""
        width, height = struct.unpack(">II", png[16:24])  # from the header of the PNG
        image = self._Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        with writing(self._path):
            self._write_event(step=step, summary=self._Summary(value=[self._Summary.Value(tag=name, image=image)]))

    def _write_event(self, **fields: Any) -> None:
        """Write an event as a TFRecord: length and data, each followed by its masked CRC-32C."""
        data = self._Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        checks = [struct.pack("<I", self._checksum(part)) for part in (length, data)]
        self._events.write(length + checks[0] + data + checks[1])

    def flush(self) -> None:
        """Hand all rows to the operating system: they survive a kill of this process."""
        with writing(self._path):
            self._file.flush()
            self._events.flush()

    def sync(self) -> None:
        """Write all rows to the disk: they survive a power failure."""
        self.flush()
        with writing(self._path):
            for file in (self._file, self._events):
                os.fsync(file.fileno())


def check_wandb() -> None:
    """Raise `UsageError` if wandb, which is not a dependency, cannot be imported."""
    try:
        import wandb  # type: ignore[import-not-found] # noqa: F401
    except ImportError as error:
        raise UsageError(f"wandb is not installed ({error}). Run pip install 'jaxcnn[wandb]'.") from None


class WeightsAndBiases:
    """A run at Weights & Biases, named after the run directory, whose `wandb.json` keeps its id across resumptions."""

    def __init__(self, folder: Path, config: Config):
        import wandb  # type: ignore[import-not-found]

        path = folder / WANDB
        if not path.exists():
            with writing(path):
                workdir.write_json(path, {"id": secrets.token_hex(4)})
        self._run: Any = wandb.init(
            project="jaxcnn",
            name=folder.resolve().name,
            id=workdir.read_json(path)["id"],
            resume="allow",
            dir=str(folder),
            config=to_dict(config),
        )

    def write(self, row: Row) -> None:
        """Send a row's values as "train/loss", "test/accuracy" and so on."""
        values = {f"{row['split']}/{name}": value for name, value in row.items() if name not in ("split", "step")}
        self._run.log(values, step=row["step"])

    def close(self, *, failed: bool) -> None:
        """Wait until everything is sent."""
        self._run.finish(exit_code=int(failed))
