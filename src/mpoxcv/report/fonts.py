"""Names in scripts that matplotlib's own font lacks: by an installed font, or as their codes."""

import functools

from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from mpoxcv.terminal import warn

DEFAULT = "DejaVu Sans"


@functools.cache
def font_for(character: str) -> font_manager.FontEntry | None:
    """Return the installed font that has a character, matplotlib's own first; None if none has."""
    manager = font_manager.fontManager

    def unwanted(font: font_manager.FontEntry) -> tuple[bool, ...]:
        shape = font.style != "normal", str(font.weight) not in ("400", "normal", "regular")
        return font.name != DEFAULT, "Sans" not in font.name, *shape

    # a Last Resort font has a box for everything
    known = [font for font in manager.ttflist if not font.name.startswith("Last Resort")]
    for font in sorted(known, key=unwanted):
        if ord(character) in _characters(font.fname):
            return font
    # matplotlib keeps a list, and does not see what was installed since
    files = set(font_manager.findSystemFonts()) - {font.fname for font in known}
    for file in sorted(files, key=lambda name: ("Sans" not in name, "Regular" not in name, name)):
        if ord(character) in _characters(file):
            manager.addfont(file)
            return next(font for font in manager.ttflist if font.fname == file)
    return None


@functools.cache
def _characters(file: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(file).get_charmap())
    # damaged, or of a kind that matplotlib does not read
    except (OSError, RuntimeError):
        return frozenset()


@functools.cache
def drawable(text: str) -> tuple[str, tuple[font_manager.FontEntry, ...]]:
    r"""Return a text with what no font has as its code (``\u7334``), and the fonts to draw it in.

    The first time that a text needs codes stderr says so.
    """
    fonts = {c: font_for(c) for c in dict.fromkeys(text) if not c.isspace()}
    if missing := [c for c, font in fonts.items() if font is None]:
        _warn_once()
    codes = str.maketrans({c: c.encode("unicode_escape").decode() for c in missing})
    used = {font.name: font for font in fonts.values() if font and font.name != DEFAULT}
    return text.translate(codes), tuple(used.values())


@functools.cache
def _warn_once() -> None:
    hint = r"figures have its codes, such as \u7334. Install one, such as Noto Sans CJK"
    warn(f"No installed font has the letters of a name: {hint}.")


def use_fonts(figure: Figure) -> None:
    """Give each text of a figure the fonts that have its letters."""
    # labels of ticks have no text before they are asked for, or drawn
    for axis in figure.findobj(Axis):
        axis.get_ticklabels()
    for artist in figure.findobj(Text):
        if fonts := drawable(artist.get_text())[1]:
            artist.set_fontfamily([DEFAULT, *(font.name for font in fonts)])
