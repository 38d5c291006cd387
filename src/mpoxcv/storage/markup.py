"""Names that others chose, as text in other formats."""

import hashlib
import re
from typing import Any

import pandas as pd

from mpoxcv.errors import visible

PLAIN_NUMBER = r"-?\d+(\.\d+)?( \(-?[\d.]+ to -?[\d.]+\))?( \(p = [\w. ]+\))?"


def one_line(text: str) -> str:
    """Return the text in one line, without control characters."""
    return visible(" ".join(text.split()))


def markdown(text: object) -> str:
    """Return text for Markdown, in one line: no HTML, no link or picture, no code, no cell of a table begins in it."""
    return re.sub(r"([\\\[\]|`])", r"\\\1", one_line(str(text))).replace("<", "&lt;")


def folder_name(text: str) -> str:
    """Return a name for one folder that every system takes, which differs for different texts."""
    name = re.sub(r"[^\w=,.+ ()\[\]-]", "_", text)
    if (
        name == text.replace("/", "_")
        and len(name.encode()) <= 150
        and not name.startswith((".", "-"))
    ):
        return name
    return f"{name.lstrip('.-')[:60]}_{hashlib.blake2b(text.encode(errors='replace'), digest_size=4).hexdigest()}"


def for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for a CSV file: text that a spreadsheet would take for a formula begins with an apostrophe."""

    def safe(value: Any) -> Any:
        formula = isinstance(value, str) and re.match(r"\s*[=+\-@|%]|[\t\r\n]", value)
        return f"'{value}" if formula and not re.fullmatch(PLAIN_NUMBER, value) else value

    return table.map(safe).rename(columns=safe)
