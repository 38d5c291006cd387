"""Files written in one piece."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

StrPath = str | os.PathLike[str]
# of provenance.json
MAPPINGS = frozenset({"data", "durations", "git", "packages", "accelerator"})


def write_atomically(path: StrPath, content: str | bytes | memoryview) -> None:
    """Write a file (text as UTF-8) beside ``path`` and rename it: no reader ever sees half of it.

    Raises:
        OSError: the disk is full or the folder cannot be written to; ``path`` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_csv(path: StrPath, table: Any, **options: Any) -> None:
    """Write a DataFrame as CSV, the same on every system; ``options`` are more of ``to_csv``."""
    write_atomically(path, table.to_csv(index=False, lineterminator="\n", **options))


def write_json(path: StrPath, content: Mapping[str, Any]) -> None:
    """Write JSON; numbers that are not finite become null, which every JSON reader takes."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: StrPath) -> dict[str, Any]:
    """Return a JSON file's mapping, empty if there is none; MAPPINGS that are none are left out."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    pairs = content.items() if isinstance(content, dict) else ()
    return {key: value for key, value in pairs if key not in MAPPINGS or isinstance(value, dict)}


def read_metrics(path: StrPath) -> dict[str, float | None]:
    """Return the numbers of metrics.json, null for those that are not finite, and nothing else."""
    pairs = read_json(path).items()
    return {k: v for k, v in pairs if v is None or (isinstance(v, int | float) and abs(v) < 1e300)}


def write_linked(paths: Sequence[Path], content: bytes) -> None:
    """Write a file under the first path and link the others; copies where the disk has no links."""
    paths[0].write_bytes(content)
    for path in paths[1:]:
        try:
            os.link(paths[0], path)
        except OSError:
            path.write_bytes(content)
