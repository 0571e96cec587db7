"""Errors that are told in one line: the user's mistakes, with what would be right, and runs that cannot go on."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A mistake in what was asked for: an unknown name, an impossible size, a missing file.

    The message is one line that says what is wrong and what would be right. The command line prints it and
    exits with status 2; in Python it is an ordinary `ValueError`.
    """


class RunError(RuntimeError):
    """A run that cannot go on, for a reason that is told in one line and is not a mistake in what was asked for."""

    exit_status = 1


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UsageError:
    """An error for a `name` that is not among the `known` ones, naming the nearest of them.

    >>> print(unknown_name("model", "resnet20_cifr", ["lenet5", "resnet20_cifar"]))
    unknown model 'resnet20_cifr'; did you mean 'resnet20_cifar'?
    """
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    return UsageError(f"unknown {kind} {str(name)!r}; {hint}")
