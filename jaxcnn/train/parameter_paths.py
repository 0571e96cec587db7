"""Select parameters by their paths, such as "stage1_block1/conv1/kernel", with regular expressions.

Expressions are anchored at the start of the path, but not at its end. "stage1" matches all paths that begin with
"stage1", such as "stage1_block1/conv1/kernel". "(?!head)" matches all paths that do not begin with "head".
"""

import re
from collections.abc import Sequence
from typing import Any

import jax

from jaxcnn.errors import UsageError, unknown_name


def matches(pattern: str, path: str) -> bool:
    """Return whether the regular expression `pattern` matches the start of a parameter's path.

    >>> matches("stem|stage1", "stage1_block1/conv1/kernel"), matches("conv1", "stage1_block1/conv1/kernel")
    (True, False)
    """
    return re.match(pattern, path) is not None


def matching(pattern: str, tree: Any) -> Any:
    """Return a pytree of booleans: for each leaf of `tree`, whether the regular expression matches the leaf's path."""
    return jax.tree_util.tree_map_with_path(lambda path, _: matches(pattern, _join(path)), tree)


def check_pattern(field: str, pattern: str) -> None:
    """Raise `UsageError` if `pattern` is not a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{field} {pattern!r} is not a regular expression: {error}") from None


def check_matches(field: str, pattern: str, params: Any) -> None:
    """Check that a regular expression matches the path of at least one parameter.

    Raises:
      UsageError: if the expression matches no parameter. The error message suggests the closest name of a top-level
        module.
    """
    if not any(jax.tree.leaves(matching(pattern, params))):
        wrong = unknown_name("module", pattern, params)
        raise UsageError(f"{field} matches no parameter: {wrong}")


def parse_numbers(
    field: str, values: Sequence[str], kind: str = "FACTOR", example: str = "stem|stage1=0.1"
) -> list[tuple[str, float]]:
    """Parse strings of the form "EXPRESSION=NUMBER" to pairs of expression and number.

    Args:
      field: field of the configuration that contains the strings, for error messages.
      values: strings to parse.
      kind: what the number means, such as "FACTOR", for error messages.
      example: a valid string, for error messages.

    Raises:
      UsageError: if a string does not have this form, or if a number is not positive.

    >>> parse_numbers("optimizer.learning_rate_scales", ["stem|stage1=0.1", "head=10"])
    [('stem|stage1', 0.1), ('head', 10.0)]
    """
    parsed = []
    for value in values:
        pattern, _, text = value.rpartition("=")
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not pattern or not 0.0 < number < float("inf"):
            raise UsageError(
                f"{field} must have the form EXPRESSION={kind} with a positive {kind.lower()}, such as {example!r}, "
                f"got {value!r}. To keep parameters unchanged, use freeze."
            )
        check_pattern(field, pattern)
        parsed.append((pattern, number))
    return parsed


def first_matching(values: Sequence[tuple[str, float]], tree: Any, default: float) -> Any:
    """Return a pytree of numbers: for each leaf of `tree`, the number of the first expression that matches its path.

    If no expression matches the path of a leaf, its number is `default`.
    """

    def number(path: Any, _: Any) -> float:
        return next((number for pattern, number in values if matches(pattern, _join(path))), default)

    return jax.tree_util.tree_map_with_path(number, tree)


def _join(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
