"""The one exception whose message is written for the person at the keyboard."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake in a command, a path or a picture: says what is wrong, where, and what to do."""

    def __init__(self, message: object) -> None:
        super().__init__(visible(str(message)))


class Diverged(UserError):
    """The loss of a split is no finite number."""


# control characters but newline and tab, text that turns the line around, halves of characters
INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return text with what would steer a terminal, hide or not encode escaped (``\x1b``)."""
    return INVISIBLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def holds_invisible(name: str) -> bool:
    """Tell whether a name has what :func:`visible` escapes, a newline or a tab."""
    return visible(name) != name or "\n" in name or "\t" in name


def nfc(name: str) -> str:
    """Return a name in the one Unicode form in which names are compared: ö is one character."""
    return unicodedata.normalize("NFC", name)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known words, or ``""`` if none is close.

    The word itself is not suggested, in whichever Unicode form.
    """
    others = {nfc(name): name for name in known if nfc(name) != nfc(word)}
    close = [others[name] for name in difflib.get_close_matches(nfc(word), others, n=3, cutoff=0.6)]
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


def shorten(items: Iterable[object], limit: int = 10) -> str:
    """Return the items one a line, indented, cut after ``limit`` with a count of the rest."""
    rows = [f"  {item}" for item in items]
    rest = [f"  … and {len(rows) - limit} more"] if len(rows) > limit else []
    return "\n".join(rows[:limit] + rest)


def check_choice(option: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is not one of the choices."""
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise UserError(f"{option}={value} is not one of {', '.join(choices)}.{hint}")


def check_number(option: str, value: object, lowest: int) -> None:
    """Refuse a value that is no whole number, or below the lowest."""
    if not isinstance(value, int) or value < lowest:
        raise UserError(f"{option}={value} should be a whole number from {lowest}.")
