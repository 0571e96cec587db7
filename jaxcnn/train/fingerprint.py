"""One number for all bits of a state, by which two runs are compared."""

import hashlib
from typing import Any

import numpy as np

from jaxcnn.train.integrity import named_leaves


def sha256(tree: Any) -> str:
    """The SHA-256 of every array of a tree: where it stands, its dtype, its shape and its bits.

    >>> sha256({"a": np.zeros(2)}) == sha256({"a": -np.zeros(2)})
    False
    """
    digest = hashlib.sha256()
    for name, leaf in named_leaves(tree).items():
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name} {array.dtype} {np.shape(leaf)}\n".encode())
        # Viewed as bytes, since not every dtype of JAX (bfloat16) has a buffer that Python knows.
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
