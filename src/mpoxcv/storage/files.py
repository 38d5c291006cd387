"""Files written in one piece, and locks between processes."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

StrPath = str | os.PathLike[str]
# of provenance.json
MAPPINGS = frozenset({"data", "durations", "git", "packages", "accelerator"})


@contextmanager
def naming(path: StrPath | None = None, option: str | None = None) -> Iterator[None]:
    """Let an error of the disk name ``path``, since those of a write name none or a file beside it.

    ``option`` is the one that says where to write, where it is not that whose value leads there.
    """
    try:
        yield
    except OSError as error:
        if path:
            error.filename = str(path)
        if option:
            error.add_note(option)
        raise


def lock(file: StrPath, timeout: float = -1) -> AcquireReturnProxy:
    """Lock a file for this process, until it leaves a ``with``, releases ``.lock`` of it, or ends.

    Its folder is made. Other processes wait up to ``timeout`` seconds, then get Timeout, or (-1) as
    long as it takes. OSError: the disk is full, cannot be written to, or has no locks.
    """
    file = Path(file)
    with naming(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        # where no file can be made, such as in /proc, FileLock would wait for ever
        if not file.exists():
            file.touch()
    try:
        return FileLock(file).acquire(timeout)
    except Timeout:
        raise
    except OSError as error:
        reason = f"No lock against other processes ({error.strerror})"
        raise OSError(error.errno, reason, str(file)) from error


def write_atomically(path: StrPath, content: str | bytes | memoryview) -> None:
    """Write a file (text as UTF-8) beside ``path`` and rename it: no reader ever sees half of it.

    After an OSError (the disk is full or cannot be written to) ``path`` is as it was.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
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
