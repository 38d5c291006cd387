"""Names that others chose, as text in other formats."""

import hashlib
import re
from typing import Any

import pandas as pd

from mpoxcv.errors import visible

PLAIN_NUMBER = r"-?\d+(\.\d+)?( \(-?[\d.]+ to -?[\d.]+\))?( \((p [=<] [\d.]+|no test)\))?"


def one_line(text: str) -> str:
    """Return the text in one line, without control characters."""
    return visible(" ".join(text.split()))


def markdown(text: object) -> str:
    """Return text for Markdown, in one line: no HTML, link, picture, code or cell begins in it."""
    return re.sub(r"([\\\[\]|`])", r"\\\1", one_line(str(text))).replace("<", "&lt;")


def folder_name(text: str) -> str:
    """Return a name for one folder that every system takes, which differs for different texts."""
    name = re.sub(r"[^\w=,.+ ()\[\]-]", "_", text)
    unchanged = name == text.replace("/", "_") and not name.startswith((".", "-"))
    if unchanged and len(name.encode()) <= 150:
        return name
    digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=4).hexdigest()
    return f"{name.lstrip('.-')[:60]}_{digest}"


def for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for a CSV file: an apostrophe is set before what looks like a formula."""

    def safe(value: Any) -> Any:
        formula = isinstance(value, str) and re.match(r"\s*[=+\-@|%]|[\t\r\n]", value)
        return f"'{value}" if formula and not re.fullmatch(PLAIN_NUMBER, value) else value

    return table.map(safe).rename(columns=safe)
