"""Names that others chose, as text in other formats."""

import hashlib
import re

from mpoxcv.errors import visible


def one_line(text: str) -> str:
    """Return the text in one line, without control characters."""
    return visible(" ".join(text.split()))


def markdown(text: object) -> str:
    """Return text for Markdown, in one line: no HTML, no link or picture, no code, no cell of a table begins in it."""
    return re.sub(r"([\\\[\]|`])", r"\\\1", one_line(str(text))).replace("<", "&lt;")


def folder_name(text: str) -> str:
    """Return a name for one folder that every system takes, which differs for different texts."""
    name = re.sub(r"[^\w=,.+ ()\[\]-]", "_", text)
    if name == text.replace("/", "_") and len(name.encode()) <= 150 and not name.startswith((".", "-")):
        return name
    return f"{name.lstrip('.-')[:60]}_{hashlib.blake2b(text.encode(errors='replace'), digest_size=4).hexdigest()}"
