"""One training step from a stored state, in a process of its own.

    python -m benchmarks.gpu.one_step reference MODEL BATCH FILE
    python -m benchmarks.gpu.one_step compare MODEL FILE STRIDE

The first form makes a state and a batch, trains one step in float32 on the CPU with exact sums, and stores all of it.
The second form trains the same step on all devices of this process in the forms `FORMS[::STRIDE]`, and prints a line of
JSON with the relative differences of each. A relative difference is the Euclidean norm of the difference of two arrays,
divided by that of the reference.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Form = tuple[str, str, str | None]
"""How to distribute the step, compute dtype, and matmul precision.

Precision None is that of training, which on a GPU is TF32 for float32.
"""

FORMS: tuple[Form, ...] = (
    *((parallel, "float32", "highest") for parallel in ("pmap", "shard_map", "jit")),
    *((parallel, "bfloat16", None) for parallel in ("pmap", "shard_map", "jit")),
    ("pmap", "float32", None),
)
"""The forms of the step, in the order of their measurement. Every third one is one of each dtype and precision."""

NEGLIGIBLE = 1e-6
"""Norm of an array, relative to that of the whole quantity, below which its own difference means nothing.

The gradient of a bias in front of batch normalization is 0 but for rounding.
"""

Arrays = dict[str, np.ndarray]


def train_once(model: str, start: Arrays | None, batch: Arrays, form: Form) -> Arrays:
    """Train one step with momentum, and return the arrays before and after it.

    Args:
      model: name of a model.
      start: arrays before the step, as this function returned them; None to initialize them.
      batch: "image" uint8 `[N, H, W, C]` and "label" int32 `[N]`.
      form: an element of `FORMS`.

    Returns:
      Arrays by "start/PATH", "parameters/PATH", "statistics/PATH" and "gradient/PATH", and the mean "loss/".
    """
    import jax
    import optax

    from jaxcnn.measure import Case
    from jaxcnn.measure.probes.program import OPTIMIZER, build_model, make_step
    from jaxcnn.train import create_state, make_optimizer, make_parallel

    parallel, dtype, precision = form
    case = Case(model, len(batch["image"]), dtype=dtype, parallel=parallel)
    distribution = make_parallel(parallel, jax.local_devices())
    with jax.default_matmul_precision(precision or "default"):
        network = build_model(case)
        optimizer = make_optimizer(OPTIMIZER, optax.constant_schedule(OPTIMIZER.learning_rate))
        state = create_state(network, optimizer, case.image_shape, seed=0)
        if start is not None:
            state = state.replace(params=_replaced("start/params", state.params, start))  # type: ignore[attr-defined]
        before = _flat("start/params", state.params)
        step = make_step(case, network, optimizer, distribution)
        after, sums = step(distribution.place_state(state), distribution.place_batch(batch))
        after = jax.device_get(after)
    # After the first step the momentum is the gradient.
    gradient = optax.tree_utils.tree_get(after.opt_state, "trace")
    return {
        **before,
        "loss/": np.asarray(sums["loss"] / case.batch_size),
        **_flat("gradient", gradient),
        **_flat("parameters", after.params),
        **_flat("statistics", after.batch_stats),
    }


def _flat(name: str, tree: Any) -> Arrays:
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {f"{name}/{jax.tree_util.keystr(path, simple=True, separator='/')}": np.array(x) for path, x in leaves}


def _replaced(name: str, tree: Any, arrays: Arrays) -> Any:
    """Return the tree with the arrays of `_flat(name, tree)`."""
    import jax

    def stored(path: Any, _: Any) -> np.ndarray:
        return arrays[f"{name}/{jax.tree_util.keystr(path, simple=True, separator='/')}"]

    return jax.tree_util.tree_map_with_path(stored, tree)


def differences(found: Arrays, reference: Arrays) -> dict[str, Any]:
    """Return the relative differences of loss, gradient, parameters and statistics.

    Returns:
      For each quantity the relative difference of all its arrays together; "largest", the largest of any of its arrays;
      and "largest_of", the name of that array.
    """
    row: dict[str, Any] = {"largest": 0.0, "largest_of": ""}
    for quantity in ("loss", "gradient", "parameters", "statistics"):
        names = [name for name in reference if name.startswith(f"{quantity}/")]
        if not names:
            continue  # a network without batch normalization has no statistics
        whole = _norm([reference[name] for name in names])
        errors = {name: _norm([found[name].astype(np.float64) - reference[name]]) for name in names}
        row[quantity] = float(np.sqrt(sum(error**2 for error in errors.values()))) / whole
        for name, error in errors.items():
            size = _norm([reference[name]])
            # not `>`: a NaN is the largest difference
            if size > NEGLIGIBLE * whole and not error / size <= row["largest"]:
                row |= {"largest": error / size, "largest_of": name.rstrip("/")}
    return row


def _norm(arrays: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in arrays)))


def reference(model: str, batch_size: int, path: Path) -> None:
    """Store a batch of random images, and the arrays before and after a step on it."""
    from jaxcnn.measure import Case
    from jaxcnn.measure.probes.program import random_batch

    batch = random_batch(Case(model, batch_size), 10)
    arrays = train_once(model, None, batch, ("jit", "float32", "highest"))
    np.savez(path, **{**{f"batch/{name}": x for name, x in batch.items()}, **arrays})  # type: ignore[arg-type]


def compare(model: str, path: Path, stride: int = 1) -> Iterator[dict[str, Any]]:
    """Yield a row for each form of the step: its relative differences to the stored one, or an error."""
    import jax

    from jaxcnn.measure.probes.machine import device_name
    from jaxcnn.measure.row import one_line

    with np.load(path) as file:
        stored = dict(file)
    batch = {name.removeprefix("batch/"): x for name, x in stored.items() if name.startswith("batch/")}
    devices = jax.local_devices()
    about = {"model": model, "batch_size": len(batch["image"]), "devices": len(devices)}
    about |= {"device_kind": device_name(devices[0]), "platform": devices[0].platform}
    for form in FORMS[::stride]:
        row = {**about, "parallel": form[0], "dtype": form[1], "precision": form[2] or "default", "error": None}
        try:
            row |= differences(train_once(model, stored, batch, form), stored)
        except Exception as error:  # a form that fails is a row
            row["error"] = one_line(error)
        yield row


def main(args: list[str]) -> None:
    if args[0] == "reference":
        reference(args[1], int(args[2]), Path(args[3]))
        return
    # Drivers may write to file descriptor 1, which would corrupt the JSON lines.
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for row in compare(args[1], Path(args[2]), int(args[3])):
        messages.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
