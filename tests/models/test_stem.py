"""What comes before all that is trained: computed once, with the results of computing it anew."""

import pandas as pd
import pytest
import torch
from test_frozen_runs import checkpoint_of, train

from conftest import CLASSES, write_tree
from mpoxcv import create_model
from mpoxcv.models.network import set_frozen_to_eval
from mpoxcv.models.stem import Stem

RESNET = ["model.name=resnet18", "model.train=2"]


@pytest.fixture
def weights(tmp_path):
    write_tree(tmp_path / "set", folds=1)
    torch.manual_seed(0)
    state = create_model("resnet18", 2).backbone.state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


@pytest.mark.parametrize(
    ("library", "name", "train"),
    [("torchvision", "resnet18", 2), ("torchvision", "mobilenet_v3_small", 3),
     ("timm", "tf_efficientnet_lite0", 4), ("timm", "convnext_atto", 2)],
)  # fmt: skip
def test_the_halves_are_the_whole_and_only_the_second_learns(library, name, train):
    network = create_model(name, 2, library, train=train).eval()
    parts = list(network.parts().values())
    stem = Stem(network.backbone, parts[:-train], network._children().values(), 64)
    network._stem.append(stem)
    picture = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        given = stem(picture)
    assert given.ndim == 2
    assert torch.equal(network(given), network(picture))
    gradients = []
    for images in (picture, given):
        network.train()
        set_frozen_to_eval(network)
        network.zero_grad()
        torch.manual_seed(0)
        network(images).square().sum().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    for anew, once in zip(*gradients, strict=True):
        assert torch.allclose(anew, once, rtol=1e-3, atol=1e-4 * float(anew.abs().max()))
    learns = [p.grad is not None for part in parts for p in part.parameters()]
    frozen = sum(1 for part in parts[:-train] for _ in part.parameters())
    assert not any(learns[:frozen]) and all(learns[frozen:])


def test_a_backbone_that_is_no_row_of_parts_is_computed_anew_in_each_step(tmp_path):
    network = create_model("vit_tiny_patch16_224", 2, "timm")
    torch.save(network.backbone.state_dict(), tmp_path / "vit.pth")
    options = {"library": "timm", "weights": str(tmp_path / "vit.pth")}
    assert create_model("vit_tiny_patch16_224", 2, train=2, **options).stem is None
    assert create_model("vit_tiny_patch16_224", 2, train="head", **options).stem is not None


@pytest.mark.slow
def test_it_is_trained_scored_used_and_reproduced(weights, run_script, tmp_path):
    given = [*RESNET, f"model.weights={weights}"]
    done = train(run_script, tmp_path, "run", *given)
    assert done.code == 0, done.err
    assert list((tmp_path / "cache").glob("features-*/*.npz"))
    assert len(checkpoint_of(tmp_path / "run")["state_dict"]) > 100

    once = pd.read_csv(tmp_path / "run/predictions.csv")
    columns = [f"p_{name}" for name in CLASSES]

    done = run_script("test", "run=run", "trainer=cpu")
    assert done.code == 0 and " 0 of " in f" {done.out}".replace("\n", " "), done.err
    done = run_script("predict", "run=run", "images=set/FOLDS/fold1/Test", "temperature=1")
    assert done.code == 0, done.err
    used = pd.read_csv(tmp_path / "predictions.csv")
    scored = once[once["split"] == "test"]
    for table in (used, scored):
        table.index = table["image"].str.rpartition("/")[2]
    assert (used[columns] - scored[columns]).abs().to_numpy().max() < 1e-4
    done = run_script("reproduce", "run=run", "trainer=cpu")
    assert done.code == 0 and "Identical" in done.out, done.err
