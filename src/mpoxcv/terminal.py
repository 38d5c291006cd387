"""All that commands print: visible to the letter, since names and records may be a stranger's."""

import sys
from typing import TYPE_CHECKING, Any

from mpoxcv.errors import visible

if TYPE_CHECKING:
    from rich.console import Console


def say(text: object) -> None:
    """Print to stdout."""
    print(visible(str(text)))  # noqa: T201


def warn(text: object) -> None:
    """Print to stderr."""
    print(visible(str(text)), file=sys.stderr)  # noqa: T201


def console(least: int = 0, **options: Any) -> "Console":
    """Return rich's console for tables; ``least`` is its width in a pipe, if that is narrower."""
    # here, since most commands need none
    from rich.console import Console
    from rich.text import Text

    class VisibleConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(visible(text), **options)

    made = VisibleConsole(markup=False, highlight=False, emoji=False, **options)
    if not made.is_terminal:
        made.width = max(made.width, least)
    return made
