"""Fetching a data set from Kaggle or from a zip archive: whole or not at all."""

import errno
import shutil
from pathlib import Path

from filelock import Timeout
from rich.progress import track

from mpoxcv.command_line import setting, shell
from mpoxcv.datasets.folds import whole_folder
from mpoxcv.datasets.unzip import unpack
from mpoxcv.errors import UserError
from mpoxcv.pictures.tree import find_fold_folders
from mpoxcv.storage.files import StrPath, lock
from mpoxcv.terminal import say

KAGGLE_SLUG = "joydippaul/mpox-skin-lesion-dataset-version-20-msld-v20"


def fetch(source: str, root: StrPath, encoding: str | None = None) -> None:
    """Fetch the data set into ``root``; do nothing if one is there.

    ``root`` never holds half a data set; a lock, ``<root>.lock``, keeps a second process out.
    ``source`` is ``kaggle``, or the path of a zip archive, whose names are in ``encoding`` (see
    ``unpack``); ``root`` is empty, or not there yet.

    Raises:
        UserError: ``root`` holds something else; the source cannot be had, or is no whole data set.
        OSError: the disk is full, or cannot be written to.
    """
    # resolved, so that a link to another disk stays one
    root = Path(root).resolve()
    if _is_there(root):
        return
    try:
        with lock(f"{root}.lock", timeout=0):
            if _is_there(root):
                return
            with whole_folder(root, locked=True) as folder:
                _fetch_into(folder, source, encoding)
    except Timeout:
        busy = f"Another process is fetching into {root}"
        raise UserError(f"{busy}. Wait until it has ended.") from None
    say(f"Fetched into {root}")


def _is_there(root: Path) -> bool:
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file. Give a folder with data.root=DIR.")
    if root.is_dir() and any(root.iterdir()):
        try:
            find_fold_folders(root)
        except UserError as error:
            raise UserError(
                f"Nothing is fetched into {root}: it is not empty, and no data set either. Move away what is "
                f"there, or give another folder with data.root=DIR.\n{str(error).splitlines()[0]}"
            ) from None
        say(f"Nothing to fetch: there is a data set in {root}")
        return True
    if root.is_mount():
        below = shell(setting("data.root", root / "msld_v2"))
        raise UserError(f"{root} is a mount point. Give a folder in it: {below}")
    return False


def _fetch_into(data: Path, source: str, encoding: str | None) -> None:
    if source == "kaggle":
        _copy_from_kaggle(data)
    elif Path(source).is_file():
        unpack(Path(source), data, encoding)
    else:
        raise UserError(
            f"source={source} is not a file. Give kaggle, or the path of a zip archive (one on the net: get it in a browser). "
            "A folder that is unpacked already needs no fetching: data.root=DIR."
        )
    try:
        find_fold_folders(data)
    except UserError:
        needed = "one folder FOLDS should lie in it, at most three deep"
        raise UserError(f"source={source} is not the data set: {needed}.") from None


def _copy_from_kaggle(data: Path) -> None:
    """Copy the data set from kagglehub's cache, which unpacks it and resumes what broke off."""
    try:
        import kagglehub
    except ImportError:
        remedy = 'pip install "mpoxcv[kaggle]"'
        raise UserError(f"source=kaggle needs the package kagglehub: {remedy}") from None
    # it raises errors of its own, those of requests, and others
    try:
        folder = Path(kagglehub.dataset_download(KAGGLE_SLUG))
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise UserError(
            f"Kaggle did not give the data set: {' '.join(str(error).split()) or type(error).__name__}\n"
            "Check the network, and if it asks for an account, your key (https://www.kaggle.com/settings).\n"
            f"Or go to https://www.kaggle.com/datasets/{KAGGLE_SLUG}, get the archive in a browser, and give "
            "source=ARCHIVE.zip"
        ) from None

    files = [path for path in folder.rglob("*") if path.is_file()]
    # copytree would go on when the disk is full
    for path in track(files, f"Copying {len(files)} files", transient=True):
        target = data / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    say(f"kagglehub keeps a copy of its own in {folder}")
