"""From a flat folder of pictures to FOLDS and FOLDS_AUG: originals in splits, augmented copies."""

import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from rich.progress import track

from mpoxcv.audit.descriptions import same_pictures
from mpoxcv.command_line import command_for, data_options, setting
from mpoxcv.datasets import folds as splitting
from mpoxcv.datasets.check import count_rows, print_counts
from mpoxcv.errors import UserError, check_number
from mpoxcv.pictures.images import decode, encode_jpeg
from mpoxcv.pictures.patients import Names, join_twins, read_names
from mpoxcv.pictures.pixels import Form, resize
from mpoxcv.pictures.tree import index_flat
from mpoxcv.storage.files import StrPath, write_csv, write_json, write_linked
from mpoxcv.terminal import console


def make_folds(
    source: StrPath,
    output: StrPath,
    classes: Sequence[str] | None,
    name_pattern: str | Names,
    augment: Callable[[np.ndarray], Any],
    copies: int = 14,
    size: int | None = 224,
    n_folds: int = 5,
    seed: int = 42,
    exclude: Sequence[str] = (),
    cache_dir: StrPath = "data/cache",
    threads: int | None = None,
    augment_config: str = "",
) -> pd.DataFrame:
    """Write the tree of ``mpoxcv.pictures.tree``, folds.csv and folds.json, and print a summary.

    The same pictures and arguments give the same bytes. A picture in several folds is one file,
    hard-linked where the disk can. If anything fails, nothing is left. ``output`` may be there if
    it is empty.

    ``source``, ``classes``, ``name_pattern`` (which must read copies' names, too) and ``exclude``
    are as in ``mpoxcv.pictures.tree.index_flat``. Each Train picture gets ``copies``,
    ``<name of the original>_aug01.jpg`` etc., ``size`` pixels high and wide (None: as the
    original). ``augment`` makes them, from uint8 (H, W, 3) to a uint8 tensor (3, H, W), random by
    torch's generator; ``augment_config``, what it was made from, goes into folds.json.

    Returns:
        The content of folds.csv: ``image``, ``patient``, ``class``, ``fold``, ``split``.

    Raises:
        UserError: folders, pictures or arguments are not as they must be; names tell no patients.
    """
    source = Path(source).resolve()
    output = Path(output).resolve()
    _require_folders(source, output)
    check_number("copies", copies, 0)
    if size is not None:
        check_number("size", size, 1)

    names = read_names(name_pattern)
    table = index_flat(source, classes, names, exclude)
    splitting.require_safe_names(table, names)
    contents = pd.Series(same_pictures(source, table, cache_dir, threads), table.index)
    notes = splitting.suspicions(table, contents, names)
    joined = table.assign(patient=join_twins(table, contents))
    assigned = splitting.assign_folds(joined, n_folds, seed)
    folds = table[["image", "patient", "class"]].merge(assigned, on="image")

    counts = table.groupby("class").agg(pictures=("image", "size"), patients=("patient", "nunique"))
    versions = {name: version(name) for name in ("scikit-learn", "torch", "torchvision", "pillow")}
    record = {
        "seed": seed, "n_folds": n_folds, "copies": copies, "size": size, "patients": names.by,
        "classes": counts.to_dict("index"), "warnings": notes, "augment": augment_config,
        "versions": versions,
    }  # fmt: skip

    def write_picture(folder: Path, path: Path, splits: dict[int, str]) -> None:
        data = (source / path).read_bytes()
        originals, augmented = splitting.make_folders(folder, path.parent, splits, copies)
        write_linked([folder / path.name for folder in originals], data)
        pixels = decode(data).copy() if size is None else resize(decode(data), Form(size)).copy()
        for number in range(1, copies + 1 if augmented else 1):
            copy = path.with_name(f"{path.stem}_aug{number:02d}.jpg")
            torch.manual_seed(int(splitting.digest(f"{seed}/{copy.as_posix()}"), 16))
            changed = augment(pixels).permute(1, 2, 0).numpy()
            _write_copy([folder / copy.name for folder in augmented], changed)

    pictures = track(folds.groupby("image"), f"Augmenting {len(table)} pictures", transient=True)
    torch_threads = torch.get_num_threads()
    # faster for small pictures, and the same sums on any number of cores
    torch.set_num_threads(1)
    try:
        with splitting.whole_folder(output) as folder, torch.random.fork_rng(devices=[]):
            for image, rows in pictures:
                splits = dict(zip(rows["fold"], rows["split"], strict=True))
                write_picture(folder, Path(str(image)), splits)
            write_csv(folder / "folds.csv", folds)
            write_json(folder / "folds.json", record)
    finally:
        torch.set_num_threads(torch_threads)
    _report(folds, names.by, notes)
    return folds


def _require_folders(source: Path, output: Path) -> None:
    if not source.is_dir():
        needed = "It should hold a folder a class, with its pictures."
        raise UserError(f"source={source} is no folder. {needed}")
    if output.is_relative_to(source):
        inside = f"output={output} is inside source={source}"
        raise UserError(f"{inside}. Choose a folder outside of it.")
    if output.exists() and (not output.is_dir() or output.is_mount() or any(output.iterdir())):
        remedy = "Choose another or remove it."
        raise UserError(f"output={output} is there, and nothing is overwritten. {remedy}")


def _write_copy(files: list[Path], pixels: np.ndarray) -> None:
    write_linked(files, encode_jpeg(Image.fromarray(pixels), 95))


def _report(folds: pd.DataFrame, by: str, notes: list[str]) -> None:
    out = console(100, soft_wrap=True)
    classes = sorted(set(folds["class"]))
    table = folds.assign(augmented=False, original=folds["image"])
    print_counts(out, "Pictures", count_rows(table, classes, False), classes)
    whole = folds[folds["fold"] == 1]
    patients = whole["patient"].value_counts().sort_index()
    example = whole["image"][whole["patient"] == patients.idxmax()]
    out.print(
        f"Patients: {len(patients)}, told from {len(whole)} file names {by}.\n"
        f"For example, of patient {patients.idxmax()}: {', '.join(example[:3])}. If this is wrong, the splits "
        "leak: set data.name_pattern or data.patients, and make the folds again."
    )
    for note in notes:
        out.print(f"WARNING: {note}", style="bold red")


def next_command(output: str, data: str, classes: Sequence[str] | None, copies: int) -> str:
    """Return the shell command that trains on new folds in ``output``, with make_folds's options.

    ``data`` is the chosen option of its config group; ``classes`` are to be named on the command
    line, where the config leaves them open.
    """
    # of the source, or replaced here
    dropped = re.compile(r"\+*data(\.(root|exclude|ignore_classes)=|\.classes=null|=)")
    arguments = ["fold=1", f"data={data}", setting("data.root", output)]
    arguments += [setting("data.classes", list(classes))] if classes else []
    arguments += [text for text in data_options() if not dropped.match(text)]
    arguments += [] if copies else ["data.train_images=original"]
    return command_for("train", *arguments)
