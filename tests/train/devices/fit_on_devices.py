"""A short run of a small network; started by test_many_devices.py.

    fit_on_devices.py FOLDER [STEP]

Sends SIGTERM to itself after STEP. Without it, the run ends, and its last state is written to `FOLDER.npz`.
"""

import contextlib
import os
import signal
import sys

import flax.linen as nn
import numpy as np

from jaxcnn.data import from_arrays
from jaxcnn.layers import BatchNorm, Conv, Dense, GlobalAvgPool
from jaxcnn.train import Callback, Config, InterruptedRunError, OptimizerConfig, evaluate, fit
from jaxcnn.train.runtime.integrity import named_leaves

EXAMPLES, TESTED, CLASSES = 2000, 391, 4


class Network(nn.Module):
    """`[N, 8, 8, 1] -> [N, 4]`, smooth."""

    @nn.compact
    def __call__(self, x, *, train):
        for width in (8, 16):
            x = nn.tanh(BatchNorm()(Conv(width, 3, padding=1, use_bias=False)(x), train=train))
        return Dense(CLASSES)(GlobalAvgPool()(x))


class Preempted(Callback):
    """Sends SIGTERM to this process after a step."""

    def __init__(self, step):
        self.step = step

    def on_step(self, run):
        if run.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def examples(count, seed):
    """Images that are brighter the higher their label, in noise."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count).astype(np.int32)
    return (40 * labels[:, None, None, None] + random.integers(0, 90, (count, 8, 8, 1))).astype(np.uint8), labels


if __name__ == "__main__":
    folder, *stop_at = sys.argv[1:]
    config = Config(
        workdir=folder,
        steps=16,
        batch_size=256,
        augment=("flip",),
        ema_decay=0.9,
        log_every=1,
        progress=False,
        optimizer=OptimizerConfig("adam", learning_rate=0.01),
    )
    data = from_arrays(examples(EXAMPLES, 0), test=examples(TESTED, 1))
    with contextlib.suppress(InterruptedRunError) if stop_at else contextlib.nullcontext():
        result = fit(config, data=data, model=Network(), callbacks=[Preempted(int(step)) for step in stop_at])
        assert not stop_at, "the run was not interrupted"
        again = evaluate(folder, data=data, model=Network())
        assert again["test_examples"] == TESTED
        np.testing.assert_allclose(again["test_loss"], result.test_loss, rtol=1e-6)
        np.savez(f"{folder}.npz", **named_leaves(result.state))
