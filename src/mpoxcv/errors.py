"""The one exception whose message is written for the person at the keyboard."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a command, a path or a picture: says what is wrong, where, and what to do.

    The scripts print its message without a traceback and exit with code 1.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known words, or ``""`` if none is close."""
    close = difflib.get_close_matches(word, list(dict.fromkeys(known)), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def shorten(items: Iterable[object], limit: int = 10) -> str:
    """Return the items one a line, indented, cut after ``limit`` with a count of the rest."""
    rows = [f"  {item}" for item in items]
    if len(rows) > limit:
        rows = [*rows[:limit], f"  … and {len(rows) - limit} more"]
    return "\n".join(rows)
