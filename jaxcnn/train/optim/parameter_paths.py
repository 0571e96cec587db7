"""Parameters chosen by their paths, such as "stage1_block1/conv1/kernel", through regular expressions.

An expression has to match from the start of a path, not up to its end: "stage1" takes all of "stage1_block1/...",
and "(?!head)" everything but what stands below "head".
"""

import re
from collections.abc import Sequence
from typing import Any

import jax

from jaxcnn.errors import UsageError, unknown_name


def matches(pattern: str, path: str) -> bool:
    """Whether the expression matches the path from its start.

    >>> matches("stem|stage1", "stage1_block1/conv1/kernel"), matches("conv1", "stage1_block1/conv1/kernel")
    (True, False)
    """
    return re.match(pattern, path) is not None


def matching(pattern: str, tree: Any) -> Any:
    """For each leaf of a tree of parameters or statistics, whether the expression matches its path."""
    return jax.tree_util.tree_map_with_path(lambda path, _: matches(pattern, _join(path)), tree)


def check_pattern(field: str, pattern: str) -> None:
    """Raises `UsageError` if an expression cannot be read."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{field} {pattern!r} is no regular expression: {error}") from None


def check_matches(field: str, pattern: str, params: Any) -> None:
    """Checks that an expression takes at least one of the parameters.

    Raises:
      UsageError: it does not; the nearest top-level module is named.
    """
    if not any(jax.tree.leaves(matching(pattern, params))):
        wrong = unknown_name("module", pattern, params)
        raise UsageError(f"{field} matches no parameter: {wrong}")


def parse_scales(scales: Sequence[str]) -> list[tuple[str, float]]:
    """Expressions and their factors from "EXPRESSION=FACTOR".

    Raises:
      UsageError: another form, or a factor that is no positive number.

    >>> parse_scales(["stem|stage1=0.1", "head=10"])
    [('stem|stage1', 0.1), ('head', 10.0)]
    """
    parsed = []
    for scale in scales:
        pattern, _, factor = scale.rpartition("=")
        try:
            number = float(factor)
        except ValueError:
            number = 0.0
        if not pattern or not 0.0 < number < float("inf"):
            raise UsageError(
                "optimizer.learning_rate_scales are of the form EXPRESSION=FACTOR with a positive factor, such as "
                f"'stem|stage1=0.1', got {scale!r}; what shall not change at all is for freeze"
            )
        check_pattern("optimizer.learning_rate_scales", pattern)
        parsed.append((pattern, number))
    return parsed


def _join(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
