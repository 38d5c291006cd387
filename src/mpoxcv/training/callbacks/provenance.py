"""provenance.json: what a run was made of, and how it ended."""

import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning as L
import torch

from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.errors import shorten
from mpoxcv.evaluation.runs import flat
from mpoxcv.models import kernels
from mpoxcv.report.figures import SYNTHETIC_NOTE
from mpoxcv.storage.files import StrPath, fault_of, read_json, write_json
from mpoxcv.terminal import warn
from mpoxcv.training.classifier import LesionClassifier
from mpoxcv.training.tensorboard import tensorboard_writer

PACKAGES = (
    "mpoxcv", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "omegaconf",
    "numpy", "pandas", "scikit-learn", "matplotlib", "pillow", "tensorboard", "timm", "onnxruntime",
)  # fmt: skip
# of pictures that changed
EXAMPLES = 10
# what changes results
ENVIRONMENT = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE",
)  # fmt: skip


class Provenance(L.Callback):
    """Write provenance.json when a fit starts, and again after each stage.

    Its ``status`` says how far the run came; ``earlier`` has the versions of those processes that
    went before where they were others.

    Args:
        folder: gets the file.
        seed: of the run.
    """

    def __init__(self, folder: StrPath, seed: int) -> None:
        self.folder = Path(folder)
        self.content: dict[str, Any] = {
            "status": "started", "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["python", *sys.argv]), "seed": seed,
            **(now := made_of()),
        }  # fmt: skip
        before = read_json(self.folder / "provenance.json")
        earlier = [] if fault_of(before, {"earlier": [{}]}) else list(before.get("earlier") or [])
        if before and any(before.get(name) != value for name, value in now.items()):
            earlier.append({name: before.get(name) for name in ("started", "command", *now)})
        if earlier:
            self.content["earlier"] = earlier
        self.durations: dict[str, float] = {}
        self._mark = self._begin = time.perf_counter()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: D102
        self._stage_ends(trainer, "prepare", "fitting")
        if writer := tensorboard_writer(trainer):
            note = f"**{SYNTHETIC_NOTE}**\n\n" if self.content["data"]["synthetic"] else ""
            writer.add_text("provenance", f"{note}```\n{json.dumps(self.content, indent=2)}\n```")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: D102
        # current_epoch is one too small where the fit was over already
        progress: Any = trainer.fit_loop.epoch_progress.current
        self.content["epochs"] = progress.processed
        self._stage_ends(trainer, "fit", "fitted")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: D102
        best = Path(getattr(trainer.checkpoint_callback, "best_model_path", ""))
        if best.is_file():
            self.content["checkpoint_sha256"] = hashlib.sha256(best.read_bytes()).hexdigest()
        if trainer.is_global_zero:
            self._compare_data(trainer.datamodule)  # type: ignore[attr-defined]
        self._stage_ends(trainer, "score", "finished")

    def on_exception(  # noqa: D102
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        status = "interrupted"
        if not isinstance(exception, KeyboardInterrupt | SystemExit):
            status = "failed"
            self.content["error"] = f"{type(exception).__name__}: {exception}"
        self._stage_ends(trainer, status, status)

    def _compare_data(self, datamodule: MSLDDataModule) -> None:
        changes = datamodule.changes()
        self.content["data"]["changes"] = {"count": len(changes), "examples": changes[:EXAMPLES]}
        if changes:
            warn(
                f"The data in {datamodule.root} have changed since the run began:\n{shorten(changes, EXAMPLES)}\n"
                "Its results are those of the pictures as they were then. Run it again for those of now."
            )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:  # noqa: D102
        assert isinstance(pl_module, LesionClassifier)
        datamodule: MSLDDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self.content["data"] = {
            "name": datamodule.source, "synthetic": datamodule.synthetic, "fold": datamodule.fold,
            "fingerprint": datamodule.fingerprint(),
            "test_fingerprint": datamodule.fingerprint("test"),
            "citation": datamodule.citation, "splits": made_by(Path(datamodule.root)), "protocol": datamodule.protocol,
            "permuted_labels": datamodule.permute_labels, "counts": datamodule.counts(),
            "originals": datamodule.originals, "audit": datamodule.audit,
            "doubts": datamodule.doubts,
        }  # fmt: skip
        weights = getattr(pl_module.network, "weights", None)
        self.content["weights"] = asdict(weights) if weights else None
        if pl_module.flips:
            self.content["flips"] = True
        device = trainer.strategy.root_device
        on_gpu = device.type == "cuda"
        name = torch.cuda.get_device_name(device) if on_gpu else processor()
        # where the network convolves by them
        by_kernels = device.type == "cpu" and trainer.precision == "32-true"
        by_kernels &= not pl_module.compiled and getattr(pl_module.network, "own_kernels", False)
        self.content["accelerator"] = {
            "type": device.type, "name": name,
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "processes": trainer.world_size,
            "precision": str(trainer.precision), "threads": torch.get_num_threads(),
            "own_kernels": kernels.name() if by_kernels else None,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "float32_matmul": torch.get_float32_matmul_precision(),
        }  # fmt: skip

    def _stage_ends(self, trainer: L.Trainer, stage: str, status: str) -> None:
        now = time.perf_counter()
        self.durations[f"{stage}_s"] = round(now - self._mark, 3)
        self._mark = now
        self.content |= {
            "status": status,
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "durations": {**self.durations, "total_s": round(now - self._begin, 3)},
        }
        if trainer.is_global_zero:
            write_json(self.folder / "provenance.json", self.content)


def made_by(root: Path) -> str | None:
    """Return who made the folds below ``root``, where make_folds left its record."""
    seed = read_json(root / "folds.json").get("seed")
    return (
        None if seed is None else f"make_folds of this program, by patient and class, seed {seed}"
    )


def processor() -> str:
    """Return the processor's name; platform has none on Linux."""
    try:
        model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        model = None
    return model[1] if model else platform.processor() or platform.machine()


def package_version(name: str) -> str | None:
    """Return an installed package's version, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def made_of() -> dict[str, Any]:
    """Return the versions of what runs, as provenance.json has them."""
    return {
        "git": git_state(), "sources": sources_digest(),
        "python": platform.python_version(), "platform": platform.platform(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }  # fmt: skip


def versions() -> dict[str, Any]:
    """Return the versions of what runs by dotted names, for a run's beginning."""
    return {**flat(made_of()), "threads": torch.get_num_threads()}


def sources_digest() -> str:
    """Return a hex digest of mpoxcv's own files, which tells changes that git does not see."""
    folder = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def git_state() -> dict[str, Any] | None:
    """Return the commit of the code that runs and whether its files differ from it.

    ``unreadable`` with the reason in a checkout that git does not read; None outside of one.
    """
    file = Path(__file__)
    if not any((folder / ".git").exists() for folder in file.parents):
        return None
    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    options: Any = {"cwd": file.parent, "capture_output": True, "text": True}
    try:
        # a package in the environment of somebody's project is no part of it
        tracked = subprocess.run(["git", "ls-files", file.name], check=True, **options).stdout
        status = subprocess.run(command, check=True, **options).stdout
    except OSError as error:
        return {"unreadable": f"git cannot be run: {error.strerror}"}
    except subprocess.CalledProcessError as error:
        return {"unreadable": (error.stderr.strip() or f"git ends with {error}").splitlines()[0]}
    if not tracked:
        return None
    commit = re.search(r"^# branch\.oid (\w+)$", status, re.MULTILINE)
    changed = bool(re.search(r"^[^#]", status, re.MULTILINE))
    return {"commit": commit[1], "changed": changed} if commit else None
