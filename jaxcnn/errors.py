"""Errors that are reported in one line: user mistakes, with the closest valid value, and runs that cannot continue."""

import difflib
from collections.abc import Iterable

__all__ = ["RunError", "TooSmallError", "UsageError"]

# Longer names are compared and shown up to this length.
LONGEST_SHOWN = 200
# Of more known names, an error lists the first.
MOST_LISTED = 60


class UsageError(ValueError):
    """A user mistake: an unknown name, an impossible size, a missing file.

    The message is one line that says what is wrong and what to do. The command line prints it and exits with
    status 2. In Python it is an ordinary `ValueError`.

    >>> try:
    ...     raise unknown_name("model", "resnet5", ["lenet5", "resnet50"])
    ... except UsageError as error:
    ...     print(error)
    unknown model 'resnet5'; did you mean 'resnet50'?
    """


class TooSmallError(UsageError):
    """Images, or feature maps within a model, are smaller than a window that moves over them.

    >>> issubclass(TooSmallError, UsageError)
    True
    """


class RunError(RuntimeError):
    """A run cannot continue, for a reason that is not a user mistake. The message is one line.

    Attributes:
      exit_status: exit status of the command line.

    >>> RunError("the disk is full").exit_status
    1
    """

    exit_status = 1


def closest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to `name`, or None if none is similar.

    A name that starts with `name` is preferred, the shortest of several. Upper and lower case count as equal.

    >>> closest("resnet20_cifr", ["lenet5", "resnet20_cifar"]), closest("resnet20", ["resnet50", "resnet20_cifar"])
    ('resnet20_cifar', 'resnet20_cifar')
    """
    wanted = str(name)[:LONGEST_SHOWN].casefold()
    names = {candidate.casefold(): candidate for candidate in sorted(known)}
    longer = [candidate for candidate in names if candidate.startswith(wanted)] if len(wanted) > 2 else []
    if longer:
        return names[min(longer, key=len)]
    similar = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    return names[similar[0]] if similar else None


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UsageError:
    """Return an error for an unknown `name`. It suggests the closest known name, or lists all of them.

    >>> print(unknown_name("model", "resnet20_cifr", ["lenet5", "resnet20_cifar"]))
    unknown model 'resnet20_cifr'; did you mean 'resnet20_cifar'?
    """
    known = sorted(known)
    near = closest(name, known)
    more = f" and {len(known) - MOST_LISTED} more" if len(known) > MOST_LISTED else ""
    hint = f"did you mean '{near}'?" if near else f"known: {', '.join(known[:MOST_LISTED])}{more}"
    return UsageError(f"unknown {kind} {shortened(name)!r}; {hint}")


def shortened(text: object) -> str:
    """Return a text unchanged, or its start if it is too long for a message."""
    whole = str(text)
    return whole if len(whole) <= LONGEST_SHOWN else f"{whole[:LONGEST_SHOWN]}..."


def printable(text: object) -> str:
    """Return a text from outside, such as the name of a file, on one line that every terminal can print.

    Control characters and bytes that are not UTF-8 are escaped as in Python.

    >>> printable("cat\\n"), printable("na\\udcefve"), printable("naïve")
    ('cat\\\\n', 'na\\\\udcefve', 'naïve')
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
