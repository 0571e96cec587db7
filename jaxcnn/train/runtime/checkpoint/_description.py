"""Description of a checkpoint, saved beside its arrays: its run, its step, and checksums of the arrays."""

from pathlib import Path
from typing import Any

import jax

from jaxcnn.errors import UsageError
from jaxcnn.train.runtime import integrity

IMPLEMENTATION = "jax_default_prng_impl"
RANDOM_NUMBER_OPTIONS = (IMPLEMENTATION, "jax_threefry_partitionable")
"""JAX options that change random numbers. A run can be resumed only with the values with which the run was started."""

Description = dict[str, Any]


def describe(state: Any, meta: dict[str, Any], score: float | None, run: str | None) -> Description:
    """Return the description of a training state, as JSON values.

    Args:
      state: training state of host arrays.
      meta: JSON values that are restored together with the state.
      score: the monitored metric of this state, or None if the state was not evaluated.
      run: identity of the run, or None if the run directory records no identity.
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
    """Check that a checkpoint belongs to the run directory that contains it, and to the step in its folder's name.

    Checkpoints of version 0.1 record neither the step nor the run, so `check_identity` accepts them without a
    comparison.

    Args:
      description: description of the checkpoint.
      step: the step in the name of the checkpoint's folder.
      run: identity of the run, or None if the run directory records no identity.

    Raises:
      ValueError: if the checkpoint belongs to another step or another run.
    """
    saved = description.get("step", step)
    if saved != step:
        raise ValueError(f"the checkpoint holds the state of step {saved}")
    if run is not None and description.get("run") != run:
        raise ValueError("the checkpoint belongs to another run")


def random_numbers() -> dict[str, Any]:
    """Return the current values of the JAX options in `RANDOM_NUMBER_OPTIONS`, by name."""
    return {name: getattr(jax.config, name) for name in RANDOM_NUMBER_OPTIONS}


def check_random_numbers(where: str, description: Description, *, read_only: bool) -> None:
    """Raise `UsageError` if a checkpoint was saved with other JAX options for random numbers than this process has.

    Checkpoints of version 0.1 do not record these options. In this case, the length of the random key shows which
    random number generator was used. A checkpoint that is only read needs no random numbers, but its key must have the
    length of this process's keys.

    Args:
      where: name of the checkpoint in error messages.
      description: description of the checkpoint.
      read_only: whether the checkpoint is only read, and training does not continue from it.
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
                f"random numbers would differ. Start this process with {name.upper()}={value}"
            )


def step_of(path: Path) -> int | None:
    """Return the step of a checkpoint from the name of its folder, or None if the name is not a step.

    >>> step_of(Path("checkpoints/160")), step_of(Path("checkpoints/0160")), step_of(Path("checkpoints/１６０"))
    (160, None, None)
    """
    name = path.name
    is_number = name.isascii() and name.isdecimal()
    return int(name) if is_number and name == str(int(name)) else None
