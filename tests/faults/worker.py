"""Runs the command line on a tiny network and tiny data, in processes that may be killed at any moment.

A job is a line of JSON on standard input, `{"args": [...], "errors": FILE, "devices": 1, "slow": SECONDS}`, where
`smallest_divided` is the number of values from which `--shard-state` divides an array, and `compares_steps` compares
each step with that of one device. For `hangs`, `usage` and `files` see `live.disturbances`; `own` lets the command line
act as in a process of its own. Each job is a process, forked from this one, in which everything is imported and nothing
of JAX has started: a start then costs a fraction of a second. Lines on standard output tell what it is doing: `pid`,
`event`, `exit`.
"""

import contextlib
import ctypes
import functools
import hashlib
import io
import json
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import matplotlib.figure
import numpy as np
import orbax.checkpoint
import tensorboardX.summary
from PIL import Image

from jaxcnn import layers, models
from jaxcnn.cli import _main, main
from jaxcnn.cli.commands import train as train_command
from jaxcnn.data import Dataset, Geometry, TfdsDataset
from jaxcnn.data.pipeline import Pipeline
from jaxcnn.data.statistics import Statistics
from jaxcnn.data.tfds_dataset import Encoded
from jaxcnn.train.devices import sharding
from jaxcnn.train.evaluation import evaluation as evaluate
from jaxcnn.train.runtime import _pictures, checkpoint, loop, plan, workdir

IMPORTED = (matplotlib.figure, orbax.checkpoint, tensorboardX.summary, train_command)
EXAMPLES = {"train": 100, "test": 40}

# The command line closes file descriptor 1 while several processes are connected.
TOLD = os.dup(1)


class Tiny(nn.Module):
    """Everything that a state can hold: parameters, statistics, and randomness in training."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = layers.Conv(4, (3, 3), strides=(2, 2))(x)
        x = nn.relu(layers.BatchNorm()(x, train=train))
        x = x.reshape(x.shape[0], -1)
        # Large enough for a file of its own in a checkpoint, and none of its values is zero.
        x = nn.relu(layers.Dense(64)(x))
        x = layers.Dropout(0.2)(x, train=train)
        return layers.Dense(self.num_classes)(x)


class Smooth(nn.Module):
    """A network whose step does not depend on the number of devices, except for rounding: without dropout."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for width in (8, 16):
            # Without biases, whose gradient is zero but for rounding.
            x = nn.tanh(layers.BatchNorm()(layers.Conv(width, 3, padding=1, use_bias=False)(x), train=train))
        return layers.Dense(self.num_classes)(layers.GlobalAvgPool()(x))


class TinyData(TfdsDataset):
    """Images that are brighter the higher their label, in noise."""

    def __init__(self):
        super().__init__("tiny", (8, 8, 1), ("0", "1", "2", "3"), EXAMPLES)

    def read(self, split: str, geometry: Geometry | None = None) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(len(split))
        labels = random.integers(0, 4, EXAMPLES[split]).astype(np.int32)
        noise = random.integers(0, 90, (EXAMPLES[split], *self.image_shape))
        return (40 * labels[:, None, None, None] + noise).astype(np.uint8), labels

    def read_encoded(self, split: str, indices: Sequence[int]) -> list[Encoded]:
        images, labels = self.read(split)
        return [Encoded(png(images[index, ..., 0]), int(labels[index])) for index in indices]

    def statistics(self, geometry: Geometry | None = None) -> Statistics:
        return Statistics((0.4,), (0.2,))

    def fingerprint(self, *, contents: bool = False) -> dict:
        return {}


def png(image: np.ndarray) -> bytes:
    """Return a gray image as the content of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def install() -> None:
    """Makes `--model tiny`, `--model smooth` and `--dataset tiny` known to this process."""
    models._registry()["tiny"] = (Tiny, __name__)
    models._registry()["smooth"] = (Smooth, __name__)
    known = plan.open_dataset

    def open_dataset(name: str, *args: Any, **kwargs: Any) -> Dataset:
        return TinyData() if name == "tiny" else known(name, *args, **kwargs)

    plan.open_dataset = evaluate.open_dataset = open_dataset


def say(*words: object) -> None:
    os.write(TOLD, (" ".join(map(str, words)) + "\n").encode())


def watch(slow: float, slow_step: float) -> None:
    """Tells what a run is doing; saves and steps then take so many seconds longer."""

    def telling(owner: object, name: str, before: str, after: str | None = None) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            say("event", before)
            result = function(*args, **kwargs)
            if after is not None:
                say("event", after)
            return result

        setattr(owner, name, wrapper)

    telling(checkpoint.Checkpoints, "restore_newest", "restoring", "restored")
    telling(checkpoint.Checkpoints, "save", "saving", "training")
    telling(loop, "evaluate", "testing", "tested")
    batches = Pipeline.batches

    def told_batches(*args, **kwargs):
        for batch in batches(*args, **kwargs):
            say("event", "training")
            time.sleep(slow_step)
            yield batch

    Pipeline.batches = told_batches
    telling(_pictures, "draw_curves", "drawing")
    telling(workdir, "write_json", "writing JSON")
    if slow:
        rename = os.rename

        def slow_rename(*args, **kwargs):
            time.sleep(slow)
            return rename(*args, **kwargs)

        os.rename = slow_rename


def fingerprint(state: object) -> str:
    """A hash of every bit of a state."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(jax.device_get(state))[0]:
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def obey_permissions() -> None:
    """Let the permissions of files count for this process, although it is root's: give up these capabilities."""
    override, read_search, owner = 1, 2, 3
    libc, header = ctypes.CDLL(None, use_errno=True), struct.pack("Ii", 0x20080522, 0)
    sets = ctypes.create_string_buffer(24)
    assert libc.capget(header, sets) == 0
    mask = ~sum(1 << capability for capability in (override, read_search, owner)) & 0xFFFFFFFF
    kept = [word & mask if index < 3 else word for index, word in enumerate(struct.unpack("6I", sets.raw))]
    assert libc.capset(header, struct.pack("6I", *kept)) == 0


def run(job: dict) -> int:
    """One call of the command line; the state that it ends in is told as a hash."""
    jax.config.update("jax_num_cpu_devices", job.get("devices", 1))
    watch(job.get("slow", 0.0), job.get("slow_step", 0.0))
    sharding.SMALLEST_DIVIDED = job.get("smallest_divided", sharding.SMALLEST_DIVIDED)
    held = contextlib.ExitStack()  # until the process ends
    if job.get("compares_steps"):
        from live.steps import comparing_steps

        held.enter_context(comparing_steps(lambda step, found: say("step", step, json.dumps(found))))
    if job.get("hangs") or job.get("usage") or job.get("files"):
        from live import disturbances

        disturbances.begin(say, **{name: job[name] for name in ("hangs", "usage", "files") if name in job})
    fit = train_command.train.fit

    def told(*args, **kwargs):
        result = fit(*args, **kwargs)
        say("state", fingerprint(result.state))
        return result

    train_command.train.fit = told
    with open(job["errors"], "w") as errors, contextlib.redirect_stderr(errors):
        os.dup2(errors.fileno(), 2)
        if job.get("obeys_permissions"):
            obey_permissions()
        try:
            # A process of its own, as the console script's, except for its settings.
            status = _main(job["args"], settle=lambda *_: None) if job.get("own") else main(job["args"])
            if jax.distributed.is_initialized():
                jax.distributed.shutdown()  # which JAX does as Python ends
            return status
        except BaseException:
            traceback.print_exc()
            return 99


def serve() -> None:
    install()
    # A shell's background job, such as a test may be, has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    say("ready")
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            status = run(json.loads(line))
            sys.stderr.flush()
            os._exit(status)
        say("pid", pid)
        say("exit", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    serve()
