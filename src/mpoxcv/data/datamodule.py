"""The folds of the Mpox Skin Lesion Dataset as a LightningDataModule."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mpoxcv.audit.descriptions import Descriptions
from mpoxcv.audit.leaks import CHOICES, settle_leaks
from mpoxcv.data.loader import BatchLoader
from mpoxcv.data.protocol import NOTES, POOLED, PROTOCOLS, fold_table, permute_labels
from mpoxcv.datasets.synthetic import is_synthetic
from mpoxcv.errors import UserError, did_you_mean
from mpoxcv.pictures.cache import PictureCache, digest_files, fingerprint, open_cache, read_file
from mpoxcv.pictures.images import decode
from mpoxcv.pictures.tree import SPLITS

TRAIN_IMAGES = ("both", "augmented", "original")
SAMPLERS = ("shuffle", "fixed", "weighted")
Stamp = tuple[int, int, int, int]


@dataclass(eq=False, repr=False)
class MSLDDataModule(L.LightningDataModule):
    """One fold: its Train (with FOLDS_AUG), Valid and Test pictures, decoded once.

    Raises:
        UserError: an argument is not one of its values, or, from ``setup``, the data are not as expected.
    """

    root: (
        str | os.PathLike[str]
    )  # the data set's folder, with FOLDS and FOLDS_AUG (see ``mpoxcv.pictures.tree``)
    classes: Sequence[str]  # in the order of their labels
    name_pattern: str  # regular expression that tells patient and original from a file's name
    fold: int | str  # its number; ``pooled`` puts all folds together, which leaks
    name: str = "msld_v2"  # of the data set, written into every result
    citation: str | None = (
        None  # source, licence and labelling of the pictures, as the report states them
    )
    protocol: str = (
        "published"  # or ``grouped``: folds made anew (see ``mpoxcv.data.protocol.fold_table``)
    )
    split_file: str | os.PathLike[str] | None = None  # of the grouped folds
    train_images: str = (
        "both"  # to train on: the ``augmented`` pictures, the ``original`` ones, or both
    )
    image_size: int = 32  # pixels; pictures are resized to a square
    antialias: bool = (
        True  # false resizes as ``cv2.resize`` does (see ``mpoxcv.pictures.pixels.resize``)
    )
    batch_size: int = 64  # training pictures a step, over all processes together
    eval_batch_size: int = 256  # pictures a step in validation and test; does not change results
    mean: Any = None  # three numbers, for pixels in [0, 1], kept as a tensor; None leaves [0, 1]
    std: Any = None  # likewise
    # a torchvision v2 transform, or one of ``mpoxcv.data.augment``, of uint8 pictures: drawn anew for each training
    # picture in each epoch
    augment: Callable[[Tensor], Tensor] | None = None
    sampler: str = "shuffle"  # ``fixed`` (the same order in every epoch), ``weighted`` (every class equally often)
    permute_labels: bool = (
        False  # a negative control: train and validate on classes dealt out anew among the patients
    )
    exclude: Sequence[str] = ()  # shell patterns of paths below ``root`` that are left out
    leaks: str = "stop"  # ``drop`` or ``allow``: training pictures that Valid or Test know (``mpoxcv.audit.leaks``)
    cache_dir: str | os.PathLike[str] = "data/cache"  # folder of the decoded pictures
    prefetch: int = 2  # batches read ahead from the cache by a thread, where pictures are large; bounds their memory
    gpu_cache_mb: int = (
        8192  # the decoded pictures are kept on the GPU if they have at most this many MiB
    )
    threads: int | None = None  # of decoding; None takes one a core
    # called with ``root`` before anything is read; makes the data where they are not there yet
    generator: Callable[[str | os.PathLike[str]], None] | None = None
    seed: int = 0  # of order and augmentation

    def __post_init__(self) -> None:
        super().__init__()
        if self.fold != POOLED and (
            not isinstance(self.fold, int) or isinstance(self.fold, bool) or self.fold < 1
        ):
            raise UserError(
                f"fold={self.fold} is not the number of a fold. The data set has folds 1 to 5: fold=1."
            )
        if not self.classes:
            raise UserError(
                "data.classes is empty: name the class folders, for example data.classes=[Mpox,Other]."
            )
        _one_of("protocol", self.protocol, PROTOCOLS)
        _one_of("data.train_images", self.train_images, TRAIN_IMAGES)
        _one_of("data.sampler", self.sampler, SAMPLERS)
        _one_of("data.leaks", self.leaks, CHOICES)
        for name in ("antialias", "permute_labels"):
            if not isinstance(switch := getattr(self, name), bool):
                raise UserError(f"data.{name}={switch} should be true or false.")
        for name in (
            "image_size",
            "batch_size",
            "eval_batch_size",
            "threads",
            "prefetch",
            "gpu_cache_mb",
        ):
            number, lowest = getattr(self, name), 0 if name in ("prefetch", "gpu_cache_mb") else 1
            if (not isinstance(number, int) or number < lowest) and (name, number) != (
                "threads",
                None,
            ):
                raise UserError(f"data.{name}={number} should be a whole number from {lowest}.")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Sequence) or len(value) != 3):
                raise UserError(
                    f"data.{name}={value} should be three numbers, for red, green and blue: [0.5,0.5,0.5]."
                )
            setattr(
                self,
                name,
                None if value is None else torch.tensor(list(value), dtype=torch.float32),
            )
        self.root, self.classes, self.exclude = (
            Path(self.root),
            list(map(str, self.classes)),
            list(self.exclude),
        )
        self.audit: dict[str, Any] | None = (
            None  # what came of the search for leaks; of pooled folds none is made
        )
        self._tables: dict[str, pd.DataFrame] = {}
        self._start: dict[
            str, tuple[Stamp | None, str]
        ] = {}  # stamp and digest of each file when the run began
        self._synthetic: bool | None = None
        self._cache: PictureCache | None = None
        self._pixels: Tensor | None = None  # those of the cache, where batches are made

    def prepare_data(self) -> None:
        """Make the data if there is a generator, and fill the cache; Lightning calls this in one process."""
        if self.generator is not None:
            self.generator(self.root)
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Read the tree and open the cache, once."""
        if self._cache is not None:
            return
        table = self._index()
        stamps = [self._stamp(path) for path in table["path"]]
        table = table.assign(digest=digest_files(self.root, table["path"].tolist(), self.threads))
        self._start = dict(
            zip(table["path"], zip(stamps, table["digest"], strict=True), strict=True)
        )
        self._synthetic = is_synthetic(self.root)
        cache = open_cache(
            self.root,
            table["path"].tolist(),
            self.image_size,
            self.cache_dir,
            self.threads,
            table["digest"].to_numpy(),
            self.antialias,
            Descriptions(self.cache_dir),  # what the search for leaks needs is seen in passing
        )
        table = table.assign(row=cache.rows)
        if self.fold != POOLED:
            table, self.audit = settle_leaks(
                table, Path(self.root), self.leaks, self.cache_dir, self.threads
            )
        table = permute_labels(table, self.seed) if self.permute_labels else table
        self._tables = {
            split: table[table["split"] == split].reset_index(drop=True) for split in SPLITS
        }
        self._cache = cache

    def _index(self) -> pd.DataFrame:
        """Return the fold's pictures as they lie on disk now."""
        table = fold_table(
            self.root,
            self.classes,
            self.name_pattern,
            self.fold,
            self.protocol,
            self.split_file,
            exclude=self.exclude,
            cache_dir=self.cache_dir,
            threads=self.threads,
        )
        if self.train_images != "original" and not table["augmented"].any():
            raise UserError(
                f"There is no folder FOLDS_AUG in {self.root}, and data.train_images={self.train_images} needs it. "
                "Train on the originals with data.train_images=original, or make copies with scripts/make_folds.py."
            )
        originals = table.loc[~table["augmented"], "split"].value_counts()
        self.originals = {
            split: int(originals.get(split, 0)) for split in SPLITS
        }  # whatever is left out below
        if self.train_images == "original":
            table = table[~table["augmented"]]
        elif self.train_images == "augmented":
            table = table[table["augmented"] | (table["split"] != "train")]
        return table.reset_index(drop=True)

    def _stamp(self, path: str) -> Stamp | None:
        """Return what the file system changes with a file's content; None where the file is gone."""
        try:
            found = Path(self.root, path).stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def changes(self) -> list[str]:
        """Return the pictures that are changed, gone or new on disk since ``setup``, a line each; nothing trains on them."""
        try:
            now = set(self._index()["path"])
            touched = [
                path
                for path, (stamp, _) in self._start.items()
                if path in now and self._stamp(path) != stamp
            ]
            digests = dict(
                zip(touched, digest_files(self.root, touched, self.threads), strict=True)
            )
        except UserError as error:  # a folder is gone or empty, a file cannot be read
            return [str(error)]
        said = {path: "new" for path in now - self._start.keys()} | {
            path: "gone" for path in self._start.keys() - now
        }
        said |= {
            path: "changed" for path, digest in digests.items() if digest != self._start[path][1]
        }
        return [f"{said[path]}: {path}" for path in sorted(said)]

    @property
    def source(self) -> str:
        """Name of the data set (``synthetic`` wherever the folder's marker says so), and what sets the run apart."""
        name = "synthetic" if self.synthetic else self.name
        notes = [NOTES[key] for key in (self.protocol, self.fold) if key in NOTES]
        allowed = ["LEAKS ALLOWED"] * (self.leaks == "allow" and self.fold != POOLED)
        return ", ".join([name, *notes, *["LABELS PERMUTED"] * self.permute_labels, *allowed])

    @property
    def synthetic(self) -> bool:
        """Whether the pictures are procedural, or were when they were read."""
        return is_synthetic(self.root) if self._synthetic is None else self._synthetic

    def fingerprint(self, *splits: str) -> str:
        """Return a hex digest of the paths and contents of these splits' pictures; without names, of all that are used."""
        table = pd.concat([self.table(split) for split in splits or SPLITS])
        return fingerprint(table["path"], table["digest"])

    def table(self, split: str) -> pd.DataFrame:
        """Return the index (see ``mpoxcv.pictures.tree.index_folds``) of a split; a batch's ``index`` counts its rows."""
        assert self._tables, "call setup() first"
        return self._tables[split]

    def class_counts(self) -> list[int]:
        """Return the number of training pictures of each class."""
        return np.bincount(self.table("train")["label"], minlength=len(self.classes)).tolist()

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return the numbers of original ``pictures``, their ``copies`` and ``patients`` by split and class."""
        counted: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}
        for split in SPLITS:
            table = self.table(split)
            for name in self.classes:
                part = table[table["class"] == name]
                copies = int(part["augmented"].sum())
                patients = part["patient"].nunique()
                counted[split][name] = {
                    "pictures": len(part) - copies,
                    "copies": copies,
                    "patients": patients,
                }
        return counted

    def pictures(self, split: str) -> np.ndarray:
        """Return a split's pictures as the network gets them, before augmentation: uint8 (N, S, S, 3)."""
        assert self._cache is not None, "call setup() first"
        return self._cache.pixels[self.table(split)["row"].to_numpy()]

    def cached_picture(self, split: str, index: int) -> np.ndarray:
        """Return a picture as the network gets it, before augmentation: uint8 (S, S, 3)."""
        assert self._cache is not None, "call setup() first"
        return np.asarray(self._cache.pixels[self.table(split)["row"][index]])

    def original_picture(self, split: str, index: int) -> np.ndarray:
        """Return a picture from its file at full size, uint8 (height, width, 3); the cached one if that is gone or changed."""
        row = self.table(split).iloc[index]
        try:
            return decode(read_file(Path(self.root, row["path"]), row["digest"]))
        except UserError:
            return self.cached_picture(split, index)

    def train_dataloader(self) -> BatchLoader:
        """Return the training batches."""
        return self._loader("train", self.batch_size, self.sampler, self.augment)

    def val_dataloader(self) -> BatchLoader:
        """Return the validation batches."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> BatchLoader:
        """Return the test batches."""
        return self._loader("test", self.eval_batch_size)

    def _loader(
        self,
        split: str,
        batch_size: int,
        sampler: str = "sequential",
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> BatchLoader:
        table = self.table(split)
        return BatchLoader(
            pixels=self._pixels_on_device(),
            rows=torch.from_numpy(table["row"].to_numpy(copy=True)),
            labels=torch.from_numpy(table["label"].to_numpy(np.int64, copy=True)),
            batch_size=batch_size,
            sampler=sampler,
            seed=self.seed,
            mean=self.mean,
            std=self.std,
            augment=augment,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
            prefetch=self.prefetch,
        )

    def _pixels_on_device(self) -> Tensor:
        """Return the cache's pixels: on the GPU that trains, if there is one and they are not too many."""
        assert self._cache is not None, "call setup() first"
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if self._pixels is None:
            self._pixels = torch.from_numpy(self._cache.pixels)
        if device.type == "cuda" and self._cache.pixels.nbytes <= self.gpu_cache_mb * 2**20:
            self._pixels = self._pixels.to(device)
        return self._pixels


def _one_of(option: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(
            f"{option}={value} is not one of {', '.join(allowed)}.{did_you_mean(str(value), allowed)}"
        )
