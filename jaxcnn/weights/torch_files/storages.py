"""Read the bytes of storages."""

from collections.abc import Callable

import numpy as np

from jaxcnn.weights.torch_files.machine import Storage

ReadStorage = Callable[[Storage], np.ndarray]
"""Function that returns the values of a storage as a one-dimensional array."""

MAX_PICKLE_BYTES = 64 * 2**20  # a network of a thousand layers needs about 0.5 MB


def cache_last(read_storage: ReadStorage) -> ReadStorage:
    """Return `read_storage` with a cache of the last storage, because many tensors may share one storage."""
    last: list[tuple[Storage, np.ndarray]] = []

    def read_cached(storage: Storage) -> np.ndarray:
        if not last or last[0][0] != storage:
            last[:] = [(storage, read_storage(storage))]
        return last[0][1]

    return read_cached
