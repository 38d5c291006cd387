"""Unpacking a zip archive that nobody vouches for."""

import re
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from mpoxcv.errors import UserError

MAX_BYTES = 20 * 2**30  # unpacked
MAX_MEMBERS = 500_000
MAX_RATIO = 200  # unpacked to packed: photographs hardly shrink
RATIO_FROM = 100 * 2**20  # bytes; archives of less may shrink as they like
MAX_NAME, MAX_PATH = 255, 1024  # bytes: of one folder or file, of a member's whole path
CHUNK = 2**20
LEADS_OUT = re.compile(
    r"[\x00-\x1f\x7f\\]|^/|^[A-Za-z]:|(^|/)\.\.(/|$)"
)  # or has control characters
ENCRYPTED = 0x1 | 0x40
BROKEN = (  # what zipfile and our writing raise for damaged or contradictory archives
    zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, FileExistsError, NotADirectoryError,
)  # fmt: skip


def unpack(archive: Path, folder: Path, name: str) -> None:
    """Unpack a zip archive, with a progress bar.

    Args:
        archive: the file.
        folder: an empty folder to unpack into.
        name: of the archive, for messages.

    Raises:
        UserError: it is broken (``folder`` may hold a part of it then), or refused by :func:`refusal`.
    """
    written = 0
    try:
        with zipfile.ZipFile(archive) as opened, progress() as bar:
            members = opened.infolist()
            if why := refusal(members, archive.stat().st_size):
                raise UserError(f"{name} is refused: {why}. Nothing was unpacked.")
            total = sum(member.file_size for member in members)
            task = bar.add_task("Unpacking", total=total)
            for member in members:
                target = folder / member.filename
                (target if member.is_dir() else target.parent).mkdir(parents=True, exist_ok=True)
                if member.is_dir():
                    continue
                with opened.open(member) as stream, target.open("xb") as out:
                    while (chunk := stream.read(CHUNK)) and (
                        written := written + len(chunk)
                    ) <= total:
                        out.write(chunk)
                        bar.advance(task, len(chunk))
            if written != total:  # headers lie
                raise zipfile.BadZipFile("its files are not as large as it declares")
    except BROKEN as error:
        raise UserError(f"{name} is no zip archive, or a broken one: {error}") from None


def refusal(members: Sequence[zipfile.ZipInfo], packed: int) -> str | None:
    """Return why an archive of ``packed`` bytes with these members is not unpacked, or None if it is."""
    total = sum(member.file_size for member in members)
    if (
        len(members) > MAX_MEMBERS
        or total > MAX_BYTES
        or total > max(RATIO_FROM, MAX_RATIO * packed)
    ):
        return f"{packed} bytes that unpack to {total} bytes in {len(members)} files, a zip bomb?"
    taken: set[str] = set()
    for member in members:
        name = member.orig_filename  # zipfile cuts the other one at a zero byte
        path = PurePosixPath(name.casefold())
        if len(name.encode()) > MAX_PATH or any(
            len(part.encode()) > MAX_NAME for part in path.parts
        ):
            return f"the name {name[:60]!r}… is too long"
        if not name:
            return "a member has no name"
        if LEADS_OUT.search(name):
            return f"the name {name!r} may lead out of the folder"
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            return f"{name!r} is a link or a special file"
        if member.flag_bits & ENCRYPTED:
            return f"{name!r} is encrypted"
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return f"{name!r} is packed by another method than deflate"
        if str(path) in taken:
            return f"two members are called {name!r} (capital letters aside)"
        taken.add(str(path))
    return None


def progress() -> Progress:
    """Return a progress bar that counts bytes."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, transient=True)
