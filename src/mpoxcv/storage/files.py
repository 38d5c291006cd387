"""Files: written in one piece, read within limits, locked between processes.

What lies in a run's or a data set's folder may be a stranger's: links, pipes, files without an end.
"""

import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import AcquireReturnProxy, FileLock, Timeout

from mpoxcv.errors import UserError

StrPath = str | os.PathLike[str]
# bytes: of a picture or a table, and of a record
MAX_BYTES, MAX_RECORD = 2**30, 2**24
# opening a pipe waits for nobody
AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
# numbers of records; larger ones count nothing
LARGEST = 1e15
MAX_DEPTH = 50
NUMBER = int | float


@contextmanager
def naming(path: StrPath) -> Iterator[None]:
    """Let an error of the disk name ``path``: those of a write name none, or a file beside it."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def require_no_links(folder: StrPath, top: StrPath | None = None) -> None:
    """Refuse to write into a folder from which a link leads out, or in which a pipe lies.

    ``top`` is what holds the folder, where that is what the user named: links may lie there, and
    none on the way to it.

    Raises:
        UserError: names what it is.
    """
    home = os.path.realpath(top or folder)
    entries = [os.fspath(folder)]
    for parent, folders, files in os.walk(folder):
        entries += [os.path.join(parent, name) for name in (*folders, *files)]  # noqa: PTH118
    for entry in entries:
        leads_to = Path(os.path.realpath(entry))
        if not leads_to.is_relative_to(home):
            raise UserError(f"Nothing is written through {entry}: it leads to {leads_to}.")
        if leads_to.exists() and not (leads_to.is_file() or leads_to.is_dir()):
            raise UserError(f"Nothing is written beside {entry}: it is no file and no folder.")


def lock(file: StrPath, timeout: float = -1) -> AcquireReturnProxy:
    """Lock a file for this process, until it leaves a ``with``, releases ``.lock`` of it, or ends.

    Its folder is made. Other processes wait up to ``timeout`` seconds, then get Timeout, or (-1) as
    long as it takes. OSError: the disk is full, cannot be written to, or has no locks; or the file
    is a link.
    """
    file = Path(file)
    with naming(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_symlink():
            raise OSError(errno.EPERM, "Nothing is locked through a link")
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


@contextmanager
def replacing(path: StrPath) -> Iterator[BinaryIO]:
    """Give a new file that gets the name ``path`` at the end: no reader ever sees half of it.

    Until then it lies beside, under a name that nobody can have put a link under. A link at
    ``path`` is replaced, and not followed. After an error ``path`` is as it was.
    """
    path = Path(path)
    # some names leave no room for more
    partial = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.partial")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # x follows no link
            with partial.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_atomically(path: StrPath, content: str | bytes | memoryview) -> None:
    """Write a file (text as UTF-8) whole; OSError: the disk is full or cannot be written to."""
    with replacing(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


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


def opened(path: StrPath, limit: int = MAX_BYTES) -> BinaryIO:
    """Open a regular file, or a link to one, for reading; the one way to what may be a stranger's.

    OSError where it cannot be read, is a pipe or a device, or has more than ``limit`` bytes.
    """
    stream = open(path, "rb", opener=lambda file, flags: os.open(file, flags | AT_ONCE))  # noqa: SIM115
    status = os.fstat(stream.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size <= limit:
        return stream
    stream.close()
    is_file = stat.S_ISREG(status.st_mode)
    reason = f"it has more than {limit} bytes" if is_file else "it is no regular file"
    raise OSError(errno.EINVAL, reason, str(path))


def read_bytes(path: StrPath, limit: int = MAX_BYTES) -> bytes:
    """Return a file's bytes; OSError as :func:`opened`."""
    with opened(path, limit) as stream:
        return stream.read()


def read_json(path: StrPath) -> dict[str, Any]:
    """Return a JSON file's mapping, empty if there is none that a record of ours could be."""
    try:
        content = json.loads(read_bytes(path, MAX_RECORD))
        # halves of characters, which nothing could write again
        json.dumps(content, ensure_ascii=False).encode()
        sound = isinstance(content, dict) and _depth(content) <= MAX_DEPTH
        return content if sound else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0) if isinstance(value, dict | list) else 0


def fault_of(value: Any, kind: Any, name: str = "") -> str | None:
    """Return the dotted name of the first value that is not of its kind, or None.

    Kinds are types; a mapping of names (``...`` stands for all others) to kinds; or a list with the
    kind of all items. Null under a name counts as absent; what no kind names may be there; numbers
    are below ``LARGEST``.
    """
    if not isinstance(kind, dict | list):
        is_large = isinstance(value, int | float) and abs(value) >= LARGEST
        return name if is_large or not isinstance(value, kind) else None
    if not isinstance(value, type(kind)):
        return name or "content"
    named, rest = (kind, kind.get(...)) if isinstance(kind, dict) else ({}, kind[0])
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        inner = named.get(key, rest)
        if inner is None or (item is None and key in named):
            continue
        if fault := fault_of(item, inner, f"{name}.{key}".lstrip(".")):
            return fault
    return None


def read_metrics(path: StrPath) -> dict[str, float | None]:
    """Return the numbers of metrics.json, null for those that are not finite, and nothing else."""
    return {k: v for k, v in read_json(path).items() if v is None or not fault_of(v, NUMBER, k)}


def write_linked(paths: Sequence[Path], content: bytes) -> None:
    """Write a file under the first path and link the others; copies where the disk has no links."""
    paths[0].write_bytes(content)
    for path in paths[1:]:
        try:
            os.link(paths[0], path)
        except OSError:
            path.write_bytes(content)
