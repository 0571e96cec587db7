"""Errors that are reported in one line: `UsageError` for user mistakes, `RunError` for runs that cannot continue."""

import difflib
from collections.abc import Iterable

__all__ = ["RunError", "TooSmallError", "UsageError"]

# Number of characters of a name that are compared and shown. The rest of a longer name is cut off.
LONGEST_SHOWN = 200
# Maximum number of known names that an error message lists.
MOST_LISTED = 60


class UsageError(ValueError):
    """A user mistake: an unknown name, an impossible size, a missing file.

    The message is one line that says what is wrong and what to do. The command line prints the message and exits with
    status 2. In Python, `UsageError` is a subclass of `ValueError`.

    >>> try:
    ...     raise unknown_name("model", "resnet5", ["lenet5", "resnet50"])
    ... except UsageError as error:
    ...     print(error)
    unknown model 'resnet5'; did you mean 'resnet50'?
    """


class TooSmallError(UsageError):
    """Images, or feature maps within a model, are smaller than the window of a convolution or pooling layer.

    >>> issubclass(TooSmallError, UsageError)
    True
    """


class RunError(RuntimeError):
    """A run cannot continue, for a reason that is not a user mistake. The message is one line.

    Attributes:
      exit_status: exit status with which the command line ends.

    >>> RunError("the disk is full").exit_status
    1
    """

    exit_status = 1


def closest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to `name`, or None if no known name is similar.

    Known names that start with `name` are preferred, and the shortest of these names is returned. Case is ignored.

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
    """Return an error for an unknown `name`. The message suggests the closest known name, or lists the known names.

    >>> print(unknown_name("model", "resnet20_cifr", ["lenet5", "resnet20_cifar"]))
    unknown model 'resnet20_cifr'; did you mean 'resnet20_cifar'?
    """
    known = sorted(known)
    near = closest(name, known)
    more = f" and {len(known) - MOST_LISTED} more" if len(known) > MOST_LISTED else ""
    hint = f"did you mean '{near}'?" if near else f"known: {', '.join(known[:MOST_LISTED])}{more}"
    return UsageError(f"unknown {kind} {shortened(name)!r}; {hint}")


def shortened(text: object) -> str:
    """Return a text unchanged, or its first 200 characters and "..." if the text is longer."""
    whole = str(text)
    return whole if len(whole) <= LONGEST_SHOWN else f"{whole[:LONGEST_SHOWN]}..."


def printable(text: object) -> str:
    """Return a text that is not trusted, such as a file name, as one line that every terminal can print.

    Control characters and bytes that are not UTF-8 are escaped as in Python strings.

    >>> printable("cat\\n"), printable("na\\udcefve"), printable("naïve")
    ('cat\\\\n', 'na\\\\udcefve', 'naïve')
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
