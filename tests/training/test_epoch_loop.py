"""Lean steps leave what Lightning's own leave, to the bit."""

import lightning as L
import pytest
import torch
from torch import Tensor

from conftest import CLASSES, PATTERN
from mpoxcv.data import MSLDDataModule
from mpoxcv.errors import UserError
from mpoxcv.models import LeNet
from mpoxcv.training import epoch_loop
from mpoxcv.training.callbacks import WithinEpochCheckpoint
from mpoxcv.training.classifier import LesionClassifier
from mpoxcv.training.epoch_loop import take_lean_steps


def test_an_optimizer_that_wants_a_closure_is_refused():
    classifier = LesionClassifier(LeNet(len(CLASSES)), CLASSES, optimizer=torch.optim.LBFGS)
    with pytest.raises(UserError, match="LBFGS"):
        classifier.configure_optimizers()


class Steps(L.Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.append(("start", batch_idx))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen.append((f"end {outputs['loss']:.9f}", trainer.global_step))


class Gradients(L.Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        pass


def fit(folder, tree, lean: bool, callbacks=(), **options):
    torch.manual_seed(0)
    data = MSLDDataModule(tree, CLASSES, PATTERN, fold=1, batch_size=4, cache_dir=folder.parent / "cache")
    classifier = LesionClassifier(LeNet(len(CLASSES)), CLASSES)
    steps, last = Steps(), WithinEpochCheckpoint(folder, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    trainer = L.Trainer(
        max_epochs=2, logger=False, callbacks=[steps, last, *callbacks], accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    if lean:
        take_lean_steps(trainer)
    trainer.fit(classifier, data)
    trainer.save_checkpoint(folder / "end.ckpt")
    return steps.seen, {file.name: torch.load(file, weights_only=False) for file in folder.glob("*.ckpt")}


def assert_same(one, two) -> None:
    if isinstance(one, dict):
        assert list(one) == list(two)
        for key in one:
            if key != "callbacks":  # the folders' names
                assert_same(one[key], two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for left, right in zip(one, two, strict=True):
            assert_same(left, right)
    else:
        assert torch.equal(one, two) if isinstance(one, Tensor) else one == two


def test_lean_steps_leave_the_same_checkpoints_counters_and_calls(tree, tmp_path, monkeypatch):
    calls = []
    advance = epoch_loop._TrainingEpochLoop.advance
    monkeypatch.setattr(epoch_loop._TrainingEpochLoop, "advance", lambda *a: (calls.append(1), advance(*a)))
    plain, plain_files = fit(tmp_path / "plain", tree, lean=False)
    n_plain = len(calls)
    lean, lean_files = fit(tmp_path / "lean", tree, lean=True)
    assert n_plain > 12 and len(calls) - n_plain == 4  # the first and the last of each epoch
    assert plain == lean
    assert_same(plain_files, lean_files)
    assert len(lean_files) == 5  # four from within epochs


@pytest.mark.parametrize("options", [{"gradient_clip_val": 0.1}, {"accumulate_grad_batches": 2}, {"val_check_interval": 3},
                                     {"callbacks": [Gradients()]}])  # fmt: skip
def test_what_asks_for_more_gets_lightnings_own_steps(tree, tmp_path, options, monkeypatch):
    def advance(self, data_fetcher):
        real(self, data_fetcher)
        assert not self._lean

    real = epoch_loop.LeanEpochLoop.advance
    monkeypatch.setattr(epoch_loop.LeanEpochLoop, "advance", advance)
    plain, plain_files = fit(tmp_path / "plain", tree, lean=False, **options)
    lean, lean_files = fit(tmp_path / "lean", tree, lean=True, **options)
    assert plain == lean
    assert_same(plain_files, lean_files)
