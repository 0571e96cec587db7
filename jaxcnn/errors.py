"""Errors that are reported in one line: user mistakes, with the closest valid value, and runs that cannot continue."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A user mistake: an unknown name, an impossible size, a missing file.

    The message is one line that says what is wrong and what to do. The command line prints it and exits with
    status 2. In Python it is an ordinary `ValueError`.
    """


class RunError(RuntimeError):
    """A run cannot continue, for a reason that is not a user mistake. The message is one line."""

    exit_status = 1


def closest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to `name`, or None if none is similar.

    >>> closest("resnet20_cifr", ["lenet5", "resnet20_cifar"])
    'resnet20_cifar'
    """
    found = difflib.get_close_matches(str(name), sorted(known), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UsageError:
    """Return an error for an unknown `name`. It suggests the closest known name, or lists all of them.

    >>> print(unknown_name("model", "resnet20_cifr", ["lenet5", "resnet20_cifar"]))
    unknown model 'resnet20_cifr'; did you mean 'resnet20_cifar'?
    """
    known = sorted(known)
    near = closest(name, known)
    hint = f"did you mean '{near}'?" if near else f"known: {', '.join(known)}"
    return UsageError(f"unknown {kind} {str(name)!r}; {hint}")
