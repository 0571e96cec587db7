"""Description of a checkpoint, saved beside its arrays: its run, its step, and checksums to verify it."""

from pathlib import Path
from typing import Any

import jax

from jaxcnn.errors import UsageError
from jaxcnn.train.runtime import integrity

IMPLEMENTATION = "jax_default_prng_impl"
RANDOM_NUMBER_OPTIONS = (IMPLEMENTATION, "jax_threefry_partitionable")
"""Options of JAX on which random numbers depend. A run can be resumed only under the same values."""

Description = dict[str, Any]


def describe(state: Any, meta: dict[str, Any], score: float | None, run: str | None) -> Description:
    """Return the description of a state of host arrays, as JSON values.

    Args:
      state: with a `step`.
      meta: JSON values that are restored with the state.
      score: the monitored metric of this state, if it was evaluated.
      run: identity of the run, if it has one.
    """
    return {
        "step": int(state.step),
        "run": run,
        "meta": meta,
        "score": score,
        "leaves": integrity.manifest(state),
        "random_numbers": random_numbers(),
    }


def check_identity(description: Description, step: int, run: str | None) -> None:
    """Check that a checkpoint is the one that its place in a run directory says.

    Earlier versions recorded neither the step nor the run.

    Args:
      description: of the checkpoint.
      step: that the name of its folder says.
      run: identity of the run, or None if the run directory records none.

    Raises:
      ValueError: if the checkpoint is of another step or run.
    """
    saved = description.get("step", step)
    if saved != step:
        raise ValueError(f"it holds the state of step {saved}")
    if run is not None and description.get("run") != run:
        raise ValueError("it is of another run")


def random_numbers() -> dict[str, Any]:
    """Return the options of JAX on which random numbers depend, by name."""
    return {name: getattr(jax.config, name) for name in RANDOM_NUMBER_OPTIONS}


def check_random_numbers(where: str, description: Description, *, read_only: bool) -> None:
    """Raise `UsageError` if a checkpoint was saved under other options for random numbers.

    Version 0.1 did not record these options, but the length of the key tells most implementations apart. A state that
    is only read needs no random numbers; only its key must have the same length.

    Args:
      where: the checkpoint, for messages.
      description: of the checkpoint.
      read_only: whether the run does not go on.
    """
    now = random_numbers()
    saved = description.get("random_numbers")
    if saved is None:
        (words,) = description["leaves"]["key"]["shape"]
        (expected,) = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape
        saved = {} if words == expected else {IMPLEMENTATION: "threefry2x32" if words == 2 else "rbg"}
    for name, value in saved.items():
        if now.get(name) != value and (name == IMPLEMENTATION or not read_only):
            raise UsageError(
                f"{where} was saved with {name} {value!r}, but this process uses {now.get(name)!r}, so that its "
                f"random numbers would differ. Start it with {name.upper()}={value}"
            )


def step_of(path: Path) -> int | None:
    """Return the step of a checkpoint from the name of its folder, or None if it is not the name of a checkpoint.

    >>> step_of(Path("checkpoints/160")), step_of(Path("checkpoints/0160")), step_of(Path("checkpoints/１６０"))
    (160, None, None)
    """
    name = path.name
    is_number = name.isascii() and name.isdecimal()
    return int(name) if is_number and name == str(int(name)) else None
