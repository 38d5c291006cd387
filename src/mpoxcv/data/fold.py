"""What a fold is: its pictures as they lie on disk, read, checked and counted."""

import functools
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mpoxcv.audit.descriptions import Descriptions
from mpoxcv.audit.leaks import CHOICES, orphans, settle_leaks, told
from mpoxcv.audit.likeness import CERTAIN, SUSPECTED
from mpoxcv.data.protocol import NOTES, PROTOCOLS, fold_table, permute_labels
from mpoxcv.datasets.synthetic import is_synthetic
from mpoxcv.errors import UserError, check_choice, check_number
from mpoxcv.evaluation.runs import LEAKING, POOLED
from mpoxcv.pictures.cache import digest_files, fingerprint, open_cache, read_file
from mpoxcv.pictures.images import decode
from mpoxcv.pictures.patients import Names, doubts, join_twins, read_names
from mpoxcv.pictures.pixels import Form
from mpoxcv.pictures.tree import SPLITS, left_out, reading
from mpoxcv.storage.files import StrPath

INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "hamming", "box")
TRAIN_IMAGES = ("both", "augmented", "original")
# pixels of a side: more is a mistake, or a stranger's
MAX_SIZE = 4096


@dataclass(eq=False, repr=False)
class Fold:
    """One fold: its Train (with FOLDS_AUG), Valid and Test pictures, decoded once.

    ``read`` fills it. Then ``audit`` holds what came of the search for leaks (None where all folds
    are put together, and none is made), ``doubts`` what is odd about the pictures, ``originals``
    the number of original pictures by split, before any were left out, and ``cached_pixels`` every
    distinct picture, uint8 (n, S, S, 3).

    Args:
        root: the data set's folder, with FOLDS and FOLDS_AUG (see ``mpoxcv.pictures.tree``).
        classes: in the order of their labels.
        name_pattern: regular expression that tells patient and original from a file's name.
        fold: its number; ``leaking`` (once ``pooled``) puts all folds together, which leaks.
        name: of the data set, written into every result.
        citation: source, licence and labelling of the pictures, as the report states them.
        protocol: ``published`` or ``grouped`` (see ``mpoxcv.data.protocol.fold_table``).
        split_file: of the grouped folds.
        makes_folds: make them where that is not there; false refuses.
        train_images: to train on: the ``augmented`` pictures, the ``original`` ones, or ``both``.
        image_size: pixels of a side; None is what the network was made for, or 32.
        antialias, interpolation, crop: how pictures are resized (see
            ``mpoxcv.pictures.pixels.Form``); None is what the network was made for, or bilinear and
            squash.
        permute_labels: a negative control: Train's and Valid's classes are dealt out anew.
        patients: CSV file that tells patients in place of ``name_pattern`` (see
            ``mpoxcv.pictures.patients.PatientTable``).
        exclude: shell patterns of paths below ``root`` that are left out.
        ignore_classes: class folders that are left out.
        leaks: what to do with training pictures that Valid or Test know: ``stop``, ``drop`` or
            ``allow`` (see ``mpoxcv.audit.leaks``).
        leaks_from: the likeness, from 0.9 to 1, from which two pictures are taken for one.
        cache_dir: folder of the decoded pictures.
        threads: of decoding; None takes one a core.
        seed: of the permuted labels.

    Raises:
        UserError: an argument is not one of its values.
    """

    root: StrPath
    classes: Sequence[str]
    name_pattern: str
    fold: int | str
    _: KW_ONLY
    name: str = "msld_v2"
    citation: str | None = None
    protocol: str = "published"
    split_file: StrPath | None = None
    makes_folds: bool = True
    train_images: str = "both"
    image_size: int | None = None
    antialias: bool = True
    interpolation: str | None = None
    crop: float | str | None = None
    permute_labels: bool = False
    patients: StrPath | None = None
    exclude: Sequence[str] = ()
    ignore_classes: Sequence[str] = ()
    leaks: str = "stop"
    leaks_from: float = CERTAIN
    cache_dir: StrPath = "data/cache"
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.fold = LEAKING if self.fold == POOLED else self.fold
        number = self.fold
        if number != LEAKING and (type(number) is not int or number < 1):
            raise UserError(
                f"fold={number} is not the number of a fold. The data set has folds 1 to 5: fold=1."
            )
        if not self.classes:
            raise UserError(
                "data.classes is empty: name the class folders, for example data.classes=[Mpox,Other]."
            )
        check_choice("protocol", self.protocol, PROTOCOLS)
        check_choice("data.train_images", self.train_images, TRAIN_IMAGES)
        check_choice("data.leaks", self.leaks, CHOICES)
        if not isinstance(self.leaks_from, float | int) or not SUSPECTED <= self.leaks_from <= 1:
            raise UserError(
                f"data.leaks_from={self.leaks_from} should be a number from {SUSPECTED} to 1."
            )
        for option in ("antialias", "permute_labels"):
            if not isinstance(value := getattr(self, option), bool):
                raise UserError(f"data.{option}={value} should be true or false.")
        if self.image_size is not None:
            check_number("data.image_size", self.image_size, 1)
            if self.image_size > MAX_SIZE:
                raise UserError(f"data.image_size={self.image_size} is more than {MAX_SIZE}.")
        if self.interpolation is not None:
            check_choice("data.interpolation", self.interpolation, INTERPOLATIONS)
        crop = self.crop
        if crop not in (None, "squash") and not (
            isinstance(crop, float | int) and 0.1 <= crop <= 1
        ):
            raise UserError(
                f"data.crop={crop} should be squash, or a number from 0.1 to 1, as 0.875 is."
            )
        whole = (self.interpolation or "bilinear", crop or "squash") == ("bilinear", "squash")
        if not self.antialias and not whole:
            raise UserError(
                "data.antialias=false resizes whole pictures as OpenCV does: leave out data.crop and data.interpolation."
            )
        if self.threads is not None:
            check_number("data.threads", self.threads, 1)

        self.root = Path(self.root)
        self.classes = [str(name) for name in self.classes]
        self.exclude = [*self.exclude, *left_out(self.ignore_classes)]
        self.audit: dict[str, Any] | None = None
        self.originals: dict[str, int] = {}
        self.doubts: list[str] = []
        self._tables: dict[str, pd.DataFrame] = {}
        self.cached_pixels = np.zeros((0, 0, 0, 3), np.uint8)
        # stamp and digest of each file when it was read
        self._read: dict[str, tuple[tuple[int, ...], str]] = {}
        # the pictures are procedural, or were when they were read
        self.synthetic = is_synthetic(self.root)

    def read(self) -> None:
        """Read the tree, look for leaks, and open the cache of decoded pictures; once.

        Raises:
            UserError: the data are not as expected, or leak.
        """
        if self._tables:
            return
        table = self._index()
        originals = table.loc[~table["augmented"], "split"].value_counts()
        self.originals = {split: int(originals.get(split, 0)) for split in SPLITS}
        self.doubts = [*map(str, doubts(table[~table["augmented"]], self.names))]
        self.doubts += map(str, orphans(table))
        table = self._used(table)

        root, paths = Path(self.root), table["path"].tolist()
        stamps = [self._stamp(path) for path in paths]
        digests = digest_files(root, paths, self.threads)
        self._read = dict(zip(paths, zip(stamps, digests.tolist(), strict=True), strict=True))
        self.synthetic = is_synthetic(root)
        # what the search for leaks needs is seen in passing
        watcher = Descriptions(self.cache_dir)
        cache = open_cache(
            root, paths, self.form, self.cache_dir, self.threads, digests, watcher,
        )  # fmt: skip

        self.cached_pixels = cache.pixels
        # of the files of ``cached_pixels``
        self.cached_digests = np.empty(len(cache.pixels), "U32")
        self.cached_digests[cache.rows] = digests
        table = table.assign(digest=digests, row=cache.rows)
        if self.fold != LEAKING:
            table, self.audit = settle_leaks(
                table, root, self.leaks, self.cache_dir, self.threads, self.leaks_from,
            )  # fmt: skip
            self.doubts += told(self.audit)
        # the same file under two names is one photograph, and its patients are one
        first = table.drop_duplicates("digest").set_index("digest")["image"]
        table = table.assign(picture=table["digest"].map(first))
        table["patient"] = join_twins(table, table["digest"])
        if self.permute_labels:
            table = permute_labels(table, self.seed)
        self._tables = {s: table[table["split"] == s].reset_index(drop=True) for s in SPLITS}

    def _index(self) -> pd.DataFrame:
        """Return the fold's pictures as they lie on disk now."""
        table = fold_table(
            self.root, self.classes, self.names, self.fold, self.protocol, self.split_file,
            exclude=self.exclude, cache_dir=self.cache_dir, threads=self.threads,
            makes_folds=self.makes_folds,
        )  # fmt: skip
        if self.train_images != "original" and not table["augmented"].any():
            raise UserError(
                f"There is no folder FOLDS_AUG in {self.root}, and data.train_images={self.train_images} needs it. "
                "Train on the originals with data.train_images=original, or make copies with scripts/make_folds.py."
            )
        return table

    @property
    def form(self) -> Form:
        """What pictures are made into."""
        size, way, crop = self.image_size or 32, self.interpolation or "bilinear", self.crop
        return Form(size, self.antialias, way, crop or "squash")

    @functools.cached_property
    def names(self) -> Names:
        """What tells the patients."""
        return read_names(self.name_pattern, self.patients)

    def _used(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows that ``train_images`` asks for."""
        if self.train_images == "original":
            table = table[~table["augmented"]]
        elif self.train_images == "augmented":
            table = table[table["augmented"] | (table["split"] != "train")]
        return table.reset_index(drop=True)

    def _stamp(self, path: str) -> tuple[int, ...]:
        """Return what the file system changes with a file's content."""
        file = Path(self.root, path)
        with reading(file):
            status = file.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def changes(self) -> list[str]:
        """Return the pictures that are changed, gone or new on disk since ``read``, a line each."""
        try:
            paths = set(self._used(self._index())["path"])
            touched = [p for p in paths & self._read.keys() if self._stamp(p) != self._read[p][0]]
            digests = digest_files(self.root, touched, self.threads)
        # a folder is gone or empty, a file cannot be read
        except UserError as error:
            return [str(error)]
        pairs = zip(touched, digests, strict=True)
        what = {path: "changed" for path, digest in pairs if digest != self._read[path][1]}
        what |= dict.fromkeys(paths - self._read.keys(), "new")
        what |= dict.fromkeys(self._read.keys() - paths, "gone")
        return [f"{what[path]}: {path}" for path in sorted(what)]

    @property
    def source(self) -> str:
        """Name of the data set (``synthetic`` by its marker), and what sets the run apart."""
        notes = ["synthetic" if self.synthetic else self.name]
        notes += [NOTES[key] for key in (self.protocol, self.fold) if key in NOTES]
        if self.permute_labels:
            notes.append("LABELS PERMUTED")
        if self.leaks == "allow" and self.fold != LEAKING:
            notes.append("LEAKS ALLOWED")
        return ", ".join(notes)

    def fingerprint(self, *splits: str) -> str:
        """Return a hex digest of the paths and contents of these splits' pictures, or of all."""
        table = pd.concat([self.table(split) for split in splits or SPLITS])
        return fingerprint(table["path"], table["digest"])

    def contents(self) -> dict[str, str]:
        """Return each split's number of pictures, with a digest of them, classes and patients."""
        contents = {}
        for split in SPLITS:
            table = self.table(split)
            said = table["digest"].astype(str) + "\t" + table["class"] + "\t" + table["patient"]
            digest = fingerprint(table["path"], said.to_numpy())
            contents[split] = f"{len(table)} pictures ({digest[:16]})"
        return contents

    def table(self, split: str) -> pd.DataFrame:
        """Return a split's index (see ``mpoxcv.pictures.tree.index_folds``).

        A batch's ``index`` counts its rows; ``row`` is where a picture lies in the cache.
        """
        assert self._tables, "call setup() first"
        return self._tables[split]

    def class_counts(self) -> list[int]:
        """Return the number of training pictures of each class."""
        return np.bincount(self.table("train")["label"], minlength=len(self.classes)).tolist()

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return numbers of original ``pictures``, ``copies``, ``patients`` by split and class."""
        counts = {}
        for split in SPLITS:
            table = self.table(split)
            columns = {"pictures": ~table["augmented"], "copies": table["augmented"]}
            numbers = table[["class"]].assign(**columns).groupby("class").sum()
            numbers["patients"] = table.groupby("class")["patient"].nunique()
            counts[split] = numbers.reindex(self.classes, fill_value=0).to_dict("index")
        return counts

    def pictures(self, split: str) -> np.ndarray:
        """Return a split's pictures, resized, before augmentation: uint8 (N, S, S, 3)."""
        return self.cached_pixels[self.table(split)["row"].to_numpy()]

    def cached_picture(self, split: str, index: int) -> np.ndarray:
        """Return a picture, resized, before augmentation: uint8 (S, S, 3)."""
        return np.asarray(self.cached_pixels[self.table(split)["row"][index]])

    def original_picture(self, split: str, index: int) -> np.ndarray:
        """Return a file's picture, uint8 (height, width, 3); the cached one if it is changed."""
        row = self.table(split).iloc[index]
        try:
            return decode(read_file(Path(self.root, row["path"]), row["digest"]))
        except UserError:
            return self.cached_picture(split, index)
