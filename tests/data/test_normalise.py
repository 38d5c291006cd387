import shutil

import pytest
import torch

from mpoxcv import RandomFlip
from mpoxcv.data import loader as loader_module
from mpoxcv.data import normalise as module
from mpoxcv.data.loader import BatchLoader


def test_where_there_is_a_compiler_it_was_used():
    assert module.C is not None or shutil.which("cc") is None


FLIPS = [None, RandomFlip(0.4, 0.3), RandomFlip(0.0, 0.7)]


class Black(RandomFlip):
    """Somebody's own, made from ours."""

    def __call__(self, images):
        return torch.zeros_like(images)


def test_an_augmentation_made_from_ours_is_called():
    pixels = torch.full((4, 8, 8, 3), 255, dtype=torch.uint8)
    loader = BatchLoader(pixels, torch.arange(4), torch.arange(4) % 2, 2, augment=Black())
    assert all(not batch["image"].any() for batch in loader)


@pytest.mark.parametrize("flip", FLIPS, ids=["plain", "both", "vertical"])
@pytest.mark.parametrize(
    "normal", [{}, {"mean": torch.tensor([0.5, 0.4, 0.3]), "std": torch.tensor([0.2, 0.3, 0.1])}]
)
@pytest.mark.parametrize("part", [1, 3_000, 2**20], ids=["read ahead", "one by one", "together"])
def test_batches_made_in_one_pass_are_torchs(flip, normal, part, monkeypatch):
    monkeypatch.setattr(loader_module, "PART", part)
    if module.C is None:
        pytest.skip("the C file was not compiled")
    pixels = torch.randint(0, 256, (40, 16, 16, 3), dtype=torch.uint8)
    rows, labels = torch.randperm(40)[:33], torch.arange(33) % 4
    options = {"batch_size": 4, "sampler": "shuffle", "seed": 3, "augment": flip} | normal
    one, two = (BatchLoader(pixels, rows, labels, **options) for _ in range(2))
    two.in_one_pass = False
    assert one.in_one_pass
    for epoch in range(2):
        one.set_epoch(epoch)
        two.set_epoch(epoch)
        for ours, theirs in zip(one, two, strict=True):
            assert ours["image"].is_contiguous(memory_format=torch.channels_last)
            assert all(torch.equal(ours[key], theirs[key]) for key in ("image", "label", "index"))
