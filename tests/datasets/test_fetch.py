"""Fetching leaves a whole data set or nothing, whatever the network, archive or user does."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from mpoxcv.datasets import fetch as fetching
from mpoxcv.datasets import unzip
from mpoxcv.datasets.fetch import KAGGLE_SLUG, fetch
from mpoxcv.errors import UserError

PICTURE = "FOLDS/fold1/Train/Cowpox/CWP_01_01.jpg"


def zipped(
    *members: str | zipfile.ZipInfo,
    change: Callable[[list[zipfile.ZipInfo]], None] = lambda all: None,
) -> bytes:
    """Return an archive; ``change`` edits what its directory at the end will say."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicate names
        for member in (PICTURE, *members):
            archive.writestr(member, b"" if str(member).endswith("/") else os.urandom(3000))
        change(archive.infolist())
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "msld [v2]"  # brackets mean something to glob and to rich


def assert_nothing_left(root: Path) -> None:
    assert {path.name for path in root.parent.iterdir()} <= {f"{root.name}.lock"}


def assert_refused(archive: bytes, root: Path, says: str) -> None:
    file = root.parent.parent / "set.zip"
    file.write_bytes(archive)
    with pytest.raises(UserError, match=says):
        fetch(str(file), root)
    assert_nothing_left(root)
    assert {path.name for path in root.parent.parent.iterdir()} == {"set.zip", "data"}, (
        "written outside"
    )


def member(name: str, mode: int = 0o100644, method: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.compress_type = mode << 16, method
    return info


def test_an_archive_fills_a_folder_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = root.parent.parent / "set.zip"
    file.write_bytes(zipped())
    fetch(str(file), root)
    assert (root / PICTURE).stat().st_size == 3000
    assert {path.name for path in root.parent.iterdir()} == {root.name, f"{root.name}.lock"}
    assert f"Fetched into {root}" in capsys.readouterr().out
    fetch("nowhere.zip", root)
    assert "Nothing to fetch" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["https://host/set.zip", "file:///etc/passwd", "nowhere.zip"])
def test_what_is_no_file(root: Path, source: str) -> None:
    with pytest.raises(UserError, match=r"is not a file(.|\n)*in a browser"):
        fetch(source, root)
    assert_nothing_left(root)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_interrupted(root: Path, tmp_path: Path, end: signal.Signals) -> None:
    # a download that never ends
    (tmp_path / "kagglehub.py").write_text(
        "import time\ndataset_download = lambda _: time.sleep(60)"
    )
    code = "import sys; from mpoxcv.datasets.fetch import fetch; fetch(*sys.argv[1:])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-c", code, "kaggle", root]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    patience = time.monotonic() + 60
    while not list(root.parent.glob(".*.partial")) and time.monotonic() < patience:
        time.sleep(0.02)
    file = tmp_path / "set.zip"
    file.write_bytes(zipped())
    with pytest.raises(UserError, match="Another process"):
        fetch(str(file), root)
    process.send_signal(end)
    process.wait(10)
    assert not root.exists()
    assert len(list(root.parent.glob(".*.partial"))) == (end == signal.SIGKILL)
    fetch(str(file), root)
    assert {path.name for path in root.parent.iterdir()} == {root.name, f"{root.name}.lock"}


@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg", "FOLDS/../../../evil.jpg", "FOLDS/..", "/tmp/evil.jpg", "//host/evil.jpg",
        "C:/evil.jpg", "c:evil.jpg", "..\\evil.jpg", "FOLDS\\..\\evil.jpg", "\\evil.jpg",
        "FOLDS/\x1b[2Jevil.jpg", "FOLDS/evil\n.jpg",
    ],
)  # fmt: skip
def test_names_that_lead_out(root: Path, name: str) -> None:
    assert_refused(zipped(name), root, "may lead out of the folder")


def test_name_with_a_zero_byte(root: Path) -> None:
    assert_refused(
        zipped("FOLDS/QQQ/evil.jpg").replace(b"QQQ", b"\0.."), root, "may lead out|broken"
    )


@pytest.mark.parametrize(
    ("archive", "says"),
    [
        (zipped(member("FOLDS/link", 0o120777)), "link or a special file"),
        (zipped(member("FOLDS/pipe", 0o010644)), "link or a special file"),
        (zipped(member("FOLDS/disk", 0o060644)), "link or a special file"),
        (zipped(member("FOLDS/a.jpg", method=zipfile.ZIP_BZIP2)), "another method"),
        (zipped("FOLDS/a.jpg", change=lambda all: setattr(all[1], "flag_bits", 1)), "encrypted"),
        (zipped("FOLDS/a.jpg", "FOLDS/a.jpg"), "two members are called"),
        (zipped("FOLDS/a.jpg", "folds/A.JPG"), "two members are called"),
        (zipped("FOLDS/a.jpg", "FOLDS/./a.jpg"), "two members are called"),
        (zipped("FOLDS/a.jpg", "FOLDS/a.jpg/"), "two members are called"),
        (zipped("FOLDS/a.jpg", "FOLDS/a.jpg/b.jpg"), "broken one"),
        (zipped("FOLDS/a.jpg/b/c.jpg", "FOLDS/a.jpg"), "broken one"),
        (zipped("FOLDS/" + 300 * "a"), "too long"),
        (zipped("FOLDS/" + 100 * "ü/aaaaaaa/"), "too long"),
        (zipped("FOLDS/" + 130 * "ü"), "too long"),  # 260 bytes
        (zipped(change=lambda all: setattr(all[0], "file_size", 30 << 30)), "zip bomb"),
        (zipped(change=lambda all: setattr(all[0], "file_size", 200 << 20)), "zip bomb"),
        (zipped(change=lambda all: setattr(all[0], "file_size", 4000)), "broken one"),
        (zipped(change=lambda all: setattr(all[0], "file_size", 10)), "broken one"),
        (zipped(change=lambda all: setattr(all[0], "CRC", 10)), "broken one"),
        (zipped()[:-400], "broken one"),
        (zipped()[:1000] + b"?" + zipped()[1001:], "broken one"),
        (b"PK\3\4 no archive", "no zip archive"),
        (b"", "no zip archive"),
    ],
)
def test_archives_that_are_refused(root: Path, archive: bytes, says: str) -> None:
    assert_refused(archive, root, says)


def test_backslashes_of_powershell(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "set.zip"
    names = (r"FOLDS\fold1\Train\Cowpox", PICTURE.replace("/", "\\"), r"FOLDS\fold1\Test\A b\x.jpg")
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in zip(names, ("", "a", "b"), strict=True):
            archive.writestr(name + "\\" * (not content), content)
    fetch(str(file), root)
    written = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert written == {PICTURE, "FOLDS/fold1/Test/A b/x.jpg"}
    assert (root / PICTURE).read_text() == "a"


def test_a_backslash_does_not_hide_a_second_member_of_a_name(root: Path) -> None:
    assert_refused(zipped("FOLDS/a.jpg", "FOLDS\\a.jpg"), root, "two members are called")


def other_encoding(encoding: str) -> bytes:
    """Return an archive whose names are in another encoding than zip's two."""
    archive = zipped("FOLDS/QQQQ/x.jpg", "FOLDS/QQQQ/y.jpg")
    return archive.replace(b"QQQQ", "猴痘".encode(encoding))


@pytest.mark.parametrize("encoding", ["gbk", "big5"])
def test_names_in_another_encoding(
    root: Path, tmp_path: Path, run_script: Callable, encoding: str
) -> None:
    assert_refused(other_encoding(encoding), root, "not in utf-8(.|\n)*encoding=gbk")
    given = ("source=set.zip", "data.root=got")
    done = run_script("get_data", *given)
    assert done.code == 1
    assert "Nothing was unpacked" in done.err
    done = run_script("get_data", *given, "encoding=klingon")
    assert done.code == 1
    assert "not in klingon (unknown encoding" in done.err
    done = run_script("get_data", *given, "encoding=ascii")
    assert "not in ascii" in done.err
    assert not list(tmp_path.glob("got*/*"))
    fetch(str(tmp_path / "set.zip"), tmp_path / "got", encoding)
    folder = tmp_path / "got/FOLDS"
    assert sorted(p.name for p in folder.iterdir()) == ["fold1", "猴痘"]
    assert len(list((folder / "猴痘").iterdir())) == 2


def test_names_that_are_utf8_and_not_marked_so(root: Path, tmp_path: Path) -> None:
    """As of macOS's archiver."""
    (tmp_path / "set.zip").write_bytes(
        zipped("FOLDS/QQQQQQ/x.jpg").replace(b"QQQQQQ", "猴痘".encode())
    )
    fetch(str(tmp_path / "set.zip"), root)
    assert (root / "FOLDS/猴痘/x.jpg").is_file()


def test_archive_of_too_many_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unzip, "MAX_MEMBERS", 3)
    assert_refused(zipped("FOLDS/a", "FOLDS/b", "FOLDS/c"), root, "in 4 files, a zip bomb")


def test_archive_of_something_else(root: Path) -> None:
    archive = zipped().replace(b"FOLDS", b"OTHER")
    assert_refused(archive, root, "one folder FOLDS")


def test_archive_as_it_is_published(root: Path, tmp_path: Path) -> None:
    tops = ("Original Images/Original Images/FOLDS", "Augmented Images/Augmented Images/FOLDS_AUG")
    file = tmp_path / "set.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for top in tops:
            archive.mkdir(f"{top}/")
            archive.writestr(f"{top}/fold1/Ünïcode.jpg", "x")
    fetch(str(file), root)
    assert all((root / top / "fold1" / "Ünïcode.jpg").read_text() == "x" for top in tops)


def test_full_disk(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(archive: Path, folder: Path, encoding: str | None) -> None:
        (folder / "FOLDS").mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetching, "unpack", fill)
    (tmp_path / "set.zip").write_bytes(zipped())
    with pytest.raises(OSError, match="No space left"):
        fetch(str(tmp_path / "set.zip"), root)
    assert_nothing_left(root)


def test_a_folder_in_use_is_never_touched(root: Path, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(zipped())
    root.mkdir(parents=True)
    (root / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="not empty"):
        fetch(str(tmp_path / "set.zip"), root)
    assert [path.name for path in root.iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match="is a file"):
        fetch(str(tmp_path / "set.zip"), root / "thesis.txt")
    with pytest.raises(UserError, match="is not a file"):
        fetch(str(root), tmp_path / "new")


def test_an_empty_folder_and_a_link_are_filled(root: Path, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(zipped())
    (tmp_path / "disk" / "set").mkdir(parents=True)
    root.parent.mkdir()
    root.symlink_to(tmp_path / "disk" / "set")
    fetch(str(tmp_path / "set.zip"), root)
    assert root.is_symlink() and (tmp_path / "disk" / "set" / PICTURE).is_file()


def test_two_processes(root: Path) -> None:
    root.parent.mkdir()
    with FileLock(f"{root}.lock"), pytest.raises(UserError, match="Another process"):
        fetch("nowhere.zip", root)


def kagglehub(monkeypatch: pytest.MonkeyPatch, download: Callable[[str], str]) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(dataset_download=download))


def test_kaggle(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "cache" / "versions" / "4"
    asked = []

    def download(slug: str) -> str:
        asked.append(slug)
        (cached / PICTURE).parent.mkdir(parents=True)
        (cached / PICTURE).write_bytes(b"x")
        return str(cached)

    kagglehub(monkeypatch, download)
    fetch("kaggle", root)
    fetch("kaggle", root)
    assert asked == [KAGGLE_SLUG]
    assert (root / PICTURE).read_bytes() == (cached / PICTURE).read_bytes() == b"x"
    assert {path.name for path in root.parent.iterdir()} == {root.name, f"{root.name}.lock"}


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (
            ConnectionError("Failed to resolve\n'kaggle.com'"),
            UserError,
            "Failed to resolve 'kaggle.com'",
        ),
        (
            RuntimeError("401 Client Error."),
            UserError,
            "401 Client Error(.|\n)*kaggle.com/settings",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_kaggle_fails(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    raised: type[BaseException],
    says: str | None,
) -> None:
    def download(slug: str) -> str:
        raise error

    kagglehub(monkeypatch, download)
    with pytest.raises(raised, match=says):
        fetch("kaggle", root)
    assert_nothing_left(root)


def test_kaggle_gives_something_else(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kagglehub(monkeypatch, lambda slug: str(tmp_path))
    shutil.copy(__file__, tmp_path)
    with pytest.raises(UserError, match="one folder FOLDS"):
        fetch("kaggle", root)
    assert_nothing_left(root)


def test_kagglehub_is_not_installed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(UserError, match=r'pip install "mpoxcv\[kaggle\]"'):
        fetch("kaggle", root)
    assert_nothing_left(root)
