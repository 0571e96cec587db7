"""One of several processes that train a small network with batch normalization; started by test_distributed.py.

    one_of_many.py COORDINATOR PROCESSES INDEX FOLDER [STRATEGY...]

Writes this process's state after ten steps with each strategy to `FOLDER/STRATEGY-INDEX.npz`.
"""

import sys
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import optax

from jaxcnn.data.pipeline import rows_of
from jaxcnn.layers import BatchNorm, Conv, Dense, GlobalAvgPool, Sequential, Tanh
from jaxcnn.train import Classification, create_state, make_parallel, make_train_step
from jaxcnn.train.devices import distributed
from jaxcnn.train.devices.parallel import batch_norm_fields
from jaxcnn.train.runtime.integrity import named_leaves

BATCH, SHAPE, STEPS = 64, (8, 8, 3), 10


class Network(nn.Module):
    """`[N, 8, 8, 3] -> [N, 10]`, with one kernel of 3x3x64x64 that is large enough to be divided.

    It is smooth: an input of a ReLU may be so near 0 that the last digit, which differs between processors, decides
    whether it passes, which changes gradients by 1e-4.
    """

    norm: object = BatchNorm

    @nn.compact
    def __call__(self, x, *, train):
        for width in (64, 64):
            x = Sequential([Conv(width, 3, padding=1), self.norm(), Tanh()])(x, train=train)
        return Dense(10)(GlobalAvgPool()(x))


def batches(share=(0, 1)):
    """Yield this process's rows of ten batches, which do not depend on the number of processes."""
    random, rows = np.random.default_rng(0), rows_of(share, BATCH)
    for _ in range(STEPS):
        images, labels = random.integers(0, 256, (BATCH, *SHAPE), np.uint8), random.integers(0, 10, BATCH, np.int32)
        yield {"image": images[rows], "label": labels[rows]}


def train(way, devices=None):
    """Return the state after ten steps, on the devices, and its strategy.

    "sharded" is `jit` with a sharded state, and "groups" normalizes over pairs of devices.
    """
    optimizer = optax.sgd(0.05, momentum=0.9)
    parallel = make_parallel({"sharded": "jit", "groups": "auto"}.get(way, way), devices, shard_state=way == "sharded")
    model = Network(partial(BatchNorm, **batch_norm_fields(2 if way == "groups" else "all", parallel)))
    step = make_train_step(model, optimizer, Classification(normalize=lambda x: x / 128.0 - 1.0))
    compiled = parallel.compile(step, donate_state=True)
    state = jax.device_get(create_state(model, optimizer, SHAPE, seed=0))
    state = parallel.place_state(distributed.from_first(state))
    for batch in batches(parallel.share):
        state, sums = compiled(state, parallel.place_batch(batch))
        assert int(sums["examples"]) == BATCH
    return state, parallel


if __name__ == "__main__":
    coordinator, processes, me, folder, *ways = sys.argv[1:]
    distributed.initialize(coordinator, int(processes), int(me))
    for how in ways:
        trained, parallel = train(how)
        np.savez(f"{folder}/{how}-{me}.npz", **named_leaves(parallel.fetch_state(trained)))
