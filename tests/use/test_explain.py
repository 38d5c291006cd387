"""Where a network looked: maps of networks that look at a known place, and their checks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_predict import assert_refused, trained  # noqa: F401
from torch import nn

from mpoxcv import create_model
from mpoxcv.use.saliency import explain_picture, saliency


class Corner(nn.Module):
    """Its second score is the brightness of the upper left quarter, and nothing else."""

    def __init__(self, maps: bool) -> None:
        super().__init__()
        # a map of 8 x 8, or none at all
        self.pool = nn.AvgPool2d(4 if maps else 16)

    def forward(self, x):
        maps = self.pool(x).mean(1)
        half = maps.shape[-1] // 2
        corner = 6 * maps[:, :half, :half].mean((1, 2))
        return torch.stack([-corner, corner], 1)


@dataclass
class Run:
    network: nn.Module

    @property
    def classifier(self) -> Any:
        return self

    def normalisation(self):
        return torch.full((3, 1, 1), 127.5), torch.full((3, 1, 1), 127.5)


def picture() -> np.ndarray:
    pixels = np.full((32, 32, 3), 60, np.uint8)
    pixels[2:14, 2:14] = 250
    return pixels


@pytest.mark.parametrize("maps", [True, False])
def test_the_map_is_bright_where_the_network_looks(maps):
    image = torch.from_numpy(picture()).permute(2, 0, 1)[None].float() / 127.5 - 1
    found = saliency(Corner(maps), image, 1)
    assert found.shape == (32, 32) and found.max() == 1 and found.min() >= 0
    assert found[:16, :16].mean() > 5 * found[16:, 16:].mean() + 0.1


def test_blurring_what_matters_lowers_the_probability_more_than_elsewhere():
    one = explain_picture(Run(Corner(False)), picture(), 1)
    assert one.fall > one.fall_elsewhere + 0.001
    # it has no weights: its map with random ones is the same, which likeness says
    assert one.likeness == pytest.approx(1)


@pytest.mark.slow
def test_a_trained_map_differs_from_that_of_random_weights():
    torch.manual_seed(0)
    network = create_model("resnet18", 2).eval()
    one, again = (
        explain_picture(Run(network), np.kron(picture(), np.ones((7, 7, 1), np.uint8)), 0)
        for _ in range(2)
    )
    assert -1 <= one.likeness < 0.999 and not np.array_equal(one.map, one.random)
    assert np.array_equal(one.map, again.map) and one.fall_elsewhere == again.fall_elsewhere


def test_pictures_are_explained_by_the_command(run_script, trained, tmp_path):  # noqa: F811
    sweep, tree = trained
    images = tree / "FOLDS/fold1/Test"
    done = run_script("explain", f"run={sweep}", f"images={images}", "most=4")
    assert done.code == 0, done.err
    assert "4 of 9 pictures are explained" in done.out and "Adebayo" in done.out
    table = pd.read_csv(tmp_path / "explained/explanations.csv")
    assert len(table) == 4 and table["likeness_to_random"].between(-1, 1).all()
    with Image.open(tmp_path / "explained/maps.png") as sheet:
        assert sheet.width == 3 * 262 and np.asarray(sheet).std() > 10
    given = (f"run={sweep}", f"images={images}")
    assert_refused(run_script("explain", *given), "nothing is overwritten")
    assert_refused(run_script("explain", f"run={sweep}"), "images= is missing")
