"""Unpacking a zip archive that nobody vouches for."""

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rich.progress import track

from mpoxcv.errors import UserError

MAX_MEMBERS = 500_000
# of all members, unpacked
MAX_BYTES = 20 * 2**30
# unpacked to packed: photographs hardly shrink; archives of less than RATIO_FROM bytes may
MAX_RATIO = 200
RATIO_FROM = 100 * 2**20
# bytes: of one folder or file, of a member's whole path
MAX_NAME, MAX_PATH = 255, 1024
# or is none, or has control characters
LEADS_OUT = re.compile(r"^$|[\x00-\x1f\x7f]|^/|^[A-Za-z]:|(^|/)\.\.(/|$)")
ENCRYPTED = 0x1 | 0x40
METHODS = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
# what zipfile and our writing raise for damaged or contradictory archives
BROKEN = (
    zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, FileExistsError,
    NotADirectoryError,
)  # fmt: skip


def unpack(archive: Path, folder: Path, encoding: str | None = None) -> None:
    """Unpack a zip archive into an empty folder.

    ``encoding`` is of names that are not marked as UTF-8; None takes UTF-8 (macOS does not mark).

    Raises:
        UserError: it is broken (``folder`` may hold a part of it then), or refused by ``refusal``,
            or its names have another encoding.
    """
    encoding = encoding or "utf-8"
    try:
        with zipfile.ZipFile(archive, metadata_encoding=encoding) as opened:
            members = opened.infolist()
            if why := refusal(members, archive.stat().st_size):
                raise UserError(f"{archive} is refused: {why}. Nothing was unpacked.")

            for member in track(members, f"Unpacking {len(members)} files", transient=True):
                target = folder / name_of(member)
                if name_of(member).endswith("/"):
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                # zipfile reads no more of a member than its declared size
                with opened.open(member) as stream, target.open("xb") as out:
                    shutil.copyfileobj(stream, out)
                    if out.tell() != member.file_size:
                        raise zipfile.BadZipFile("its files are not as large as it declares")
    except (UnicodeDecodeError, LookupError) as error:
        raise UserError(
            f"{archive} is refused: its files' names are not in {encoding} ({error}). Nothing was unpacked. "
            "Say what they are in: encoding=gbk (Chinese), cp932 (Japanese), cp949 (Korean), cp1252 or cp437 (Western)."
        ) from None
    except BROKEN as error:
        raise UserError(f"{archive} is no zip archive, or a broken one: {error}") from None


def name_of(member: zipfile.ZipInfo) -> str:
    """Return where a member goes, below the folder: what is checked, and what is written."""
    # Windows' PowerShell packs with backslashes, which are no part of a name there
    return member.filename.replace("\\", "/")


def refusal(members: Sequence[zipfile.ZipInfo], packed: int) -> str | None:
    """Return why an archive of ``packed`` bytes with these members is not unpacked, or None."""
    total = sum(member.file_size for member in members)
    limit = min(MAX_BYTES, max(RATIO_FROM, MAX_RATIO * packed))
    if len(members) > MAX_MEMBERS or total > limit:
        return f"{packed} bytes that unpack to {total} bytes in {len(members)} files, a zip bomb?"

    taken: set[str] = set()
    for member in members:
        # where it goes, and as the archive has it: zipfile cuts the first at a zero byte
        name = name_of(member)
        packed_name = member.orig_filename.replace("\\", "/")
        path = PurePosixPath(name.casefold())
        longest = max((len(part.encode()) for part in path.parts), default=0)
        kind, method = stat.S_IFMT(member.external_attr >> 16), member.compress_type
        reasons = {
            "its name is too long": len(name.encode()) > MAX_PATH or longest > MAX_NAME,
            "its name may lead out of the folder": any(map(LEADS_OUT.search, (name, packed_name))),
            "it is a link or a special file": kind not in (0, stat.S_IFREG, stat.S_IFDIR),
            "it is encrypted": member.flag_bits & ENCRYPTED,
            "it is packed by another method than deflate": method not in METHODS,
            "two members are called so (capital letters aside)": str(path) in taken,
        }
        if why := next((reason for reason, holds in reasons.items() if holds), None):
            return f"{packed_name[:60]!r}: {why}"
        taken.add(str(path))
    return None
