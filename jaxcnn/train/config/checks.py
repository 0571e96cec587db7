"""Checks of the configuration's fields. The annotation of a field declares checks: `Annotated[float, POSITIVE]`.

A check is a function `(name, value)` that raises `UsageError` if the value is not valid. All checks of numbers reject
NaN, since comparisons with NaN are false. `check_type` runs before all other checks.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, get_origin

from jaxcnn.errors import UsageError, shortened, unknown_name
from jaxcnn.local_path import check_path
from jaxcnn.train.parameter_paths import check_pattern, parse_numbers

Check = Callable[[str, Any], None]

# Largest side of an image in pixels. A float32 color image of this size occupies 3 GB of memory.
MAX_SIDE = 16_384

# Largest number of steps, since the step counter in the training state is int32.
MAX_STEPS = 2**31 - 1


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raise `UsageError` if a value does not have the type of its field.

    >>> check_type("steps", 1.5, int | None)
    Traceback (most recent call last):
    ...
    jaxcnn.errors.UsageError: steps must be an integer or None, got 1.5
    """
    if not is_a(value, hint):
        raise UsageError(f"{name} must be {_describe(hint)}, got {shortened(repr(value))}")


def is_a(value: Any, hint: Any) -> bool:
    """Return whether a value has the type `hint`. An int counts as a float, and a bool does not count as a number."""
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is tuple:
        item, *others = get_args(hint)
        if not isinstance(value, tuple):
            return False
        if others == [...]:
            return all(is_a(x, item) for x in value)
        return len(value) == 1 + len(others) and all(map(is_a, value, (item, *others)))
    if get_args(hint):
        return any(is_a(value, choice) for choice in get_args(hint))
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _describe(hint: Any) -> str:
    """Return a type as text for an error message, such as "an integer or None"."""
    names = {int: "an integer", float: "a number", str: "a string", bool: "True or False", type(None): "None"}
    if hint in names:
        return names[hint]
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        kinds = {int: "integers", float: "numbers", str: "strings"}
        item, *others = get_args(hint)
        return f"a tuple of {'' if others == [...] else f'{1 + len(others)} '}{kinds[item]}"
    return " or ".join(map(_describe, get_args(hint)))


def must(requirement: str, holds: Callable[[Any], bool]) -> Check:
    """Return a check that raises the error "NAME must REQUIREMENT, got VALUE" if `holds(value)` is False.

    >>> must("be positive", lambda x: x > 0)("epochs", -1)
    Traceback (most recent call last):
    ...
    jaxcnn.errors.UsageError: epochs must be positive, got -1
    """

    def check(name: str, value: Any) -> None:
        if not holds(value):
            raise UsageError(f"{name} must {requirement}, got {shortened(value)}")

    return check


def one_of(choices: Sequence[str]) -> Check:
    """Return a check that the value is one of `choices`. The error message suggests the closest choice."""

    def check(name: str, value: Any) -> None:
        if value not in choices:
            raise unknown_name(name, value, choices)

    return check


AT_LEAST_ONE = must("be at least 1", lambda x: x >= 1)
POSITIVE = must("be a positive number", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = must("not be negative", lambda x: 0 <= x < math.inf)
# Steps compute in float32. Numbers below this range become 0 in float32, and numbers above it become infinite.
FLOAT32 = must("be a number that float32 holds (1.2e-38 to 3.4e+38)", lambda x: x == 0 or 1.2e-38 <= abs(x) <= 3.4e38)
# Outside of this range, samples of the distribution Beta(alpha, alpha) are numerically constant or not finite.
MIXING = must("be 0 or from 1e-6 to 100", lambda x: x == 0 or 1e-6 <= x <= 100)
FRACTION = must("be in [0, 1]", lambda x: 0 <= x <= 1)
FRACTION_BELOW_ONE = must("be in [0, 1)", lambda x: 0 <= x < 1)
# With more smoothing, the labels of two classes would hardly differ from each other.
LABEL_SMOOTHING = must("be in [0, 0.9]", lambda x: 0 <= x <= 0.9)


def at_most(most: float, most_as_text: str = "") -> Check:
    """Return a check that the value is not larger than `most`."""
    return must(f"be at most {most_as_text or f'{most:,.0f}'}", lambda x: x <= most)


STEPS = at_most(MAX_STEPS, "2^31 - 1")


def between(least: int, most: int, most_as_text: str = "") -> Check:
    """Return a check that the value is between `least` and `most`, inclusive."""
    return must(f"be from {least} to {most_as_text or most}", lambda x: least <= x <= most)


def batch_size(name: str, value: Any) -> None:
    """Check that the value is "full" or an integer of at least 1."""
    if value != "full":
        AT_LEAST_ONE(name, value)
        STEPS(name, value)


def image_size(name: str, value: Any) -> None:
    """Check that the value is an image's side, or its height and width, in pixels. Each number must be at least 1."""
    for side in value if isinstance(value, tuple) else (value,):
        between(1, MAX_SIDE)(name, side)


def resize(name: str, value: Any) -> None:
    """Check that the value is "shorter", "stretch", or the length of a side: at least 1 pixel."""
    if isinstance(value, str):
        one_of(("shorter", "stretch"))(name, value)
    else:
        between(1, MAX_SIDE)(name, value)


def class_weights(name: str, value: Any) -> None:
    """Check that the value is "balanced", or a list of numbers: each at least 0, and not all of them 0."""
    if isinstance(value, str):
        one_of(("balanced",))(name, value)
    elif not all(0 <= weight <= 3.4e38 for weight in value) or not any(value):
        raise UsageError(f"{name} must be 'balanced', or numbers of at least 0 that are not all 0, got {value}")


def validation(name: str, value: Any) -> None:
    """Check that the value is a fraction between 0 and 1, or the name of a split."""
    if not isinstance(value, str) and not 0 < value < 1:
        raise UsageError(f"{name} must be a fraction between 0 and 1, or a TFDS split, got {value}")


def text(name: str, value: Any) -> None:
    """Check that the value is a string. The field has the type `Any`, so that it has no flag."""
    check_type(name, value, str)


def profile(name: str, value: str) -> None:
    """Check that the value has the form FIRST:LAST."""
    first, colon, last = value.partition(":")
    numbers = [int(x) if x.isdecimal() and len(x) < 10 else 0 for x in (first, last)]
    if not colon or not 1 <= numbers[0] <= numbers[1]:
        raise UsageError(f"{name} must be FIRST:LAST, with steps counted from 1, such as 10:20, got {value!r}")


CROP_FRACTION = must("be more than 0 and at most 1", lambda x: 0 < x <= 1)
FINITE = must("be finite numbers", lambda values: all(map(math.isfinite, values)))
ALL_POSITIVE = must("be positive numbers", lambda values: all(0 < x < math.inf for x in values))


def _increases(milestones: Sequence[float]) -> bool:
    ends = (0.0, *milestones, 1.0)
    return bool(milestones) and all(before < after for before, after in itertools.pairwise(ends))


MILESTONES = must("grow between 0 and 1", _increases)


def pattern(name: str, value: str) -> None:
    """Check that the value is a regular expression."""
    check_pattern(name, value)


def scales(field: str) -> Check:
    """Return a check that each value has the form EXPRESSION=FACTOR."""

    def check(_: str, value: Sequence[str]) -> None:
        parse_numbers(field, value)

    return check


def epochs_of_parameters(name: str, value: Sequence[str]) -> None:
    """Check that each value has the form EXPRESSION=EPOCHS."""
    parse_numbers(name, value, "EPOCHS", "stem=3")


def path(name: str, value: str) -> None:
    """Check that the value is a valid path on this machine. The path need not exist."""
    check_path(name, value)


def json_values(name: str, value: Any) -> None:
    """Check that keyword arguments, a sequence of pairs `(name, value)`, can be stored as JSON."""
    for keyword, argument in value:
        if not _is_json(argument):
            raise UsageError(
                f"{name}: {keyword} must be a number, string, True, False, None or a tuple of these, got "
                f"{type(argument).__name__}. Or pass your own optimizer: fit(config, optimizer=...)."
            )


def _is_json(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_json, value))
    return value is None or isinstance(value, bool | int | float | str)
