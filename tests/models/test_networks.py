"""Every network that was published on this data, and five kinds of timm's, through the whole life.

NASNetMobile is in neither library; its large sister stands for it.
"""

from pathlib import Path

import lightning as L
import pytest
import torch
from torchvision import models

from conftest import CLASSES, PATTERN, write_tree
from mpoxcv import LesionClassifier, MSLDDataModule, create_model
from mpoxcv.storage.checkpoint_io import AtomicCheckpointIO

slow = pytest.mark.slow
NETWORKS = [
    # those of published results on this data
    pytest.param("torchvision", "efficientnet_b5", 32, {}, marks=slow),
    pytest.param("torchvision", "resnet50", 32, {}, marks=slow),
    ("torchvision", "densenet121", 32, {}),
    pytest.param("torchvision", "resnet101", 32, {}, marks=slow),
    ("torchvision", "mobilenet_v2", 32, {}),
    ("timm", "mobilenetv1_100", 32, {}),
    pytest.param("timm", "xception", 64, {}, marks=slow),
    pytest.param("torchvision", "inception_v3", 75, {}, marks=slow),
    pytest.param("timm", "nasnetalarge", 64, {}, marks=slow),
    ("timm", "vit_tiny_patch16_224", 32, {"img_size": 32}),
    ("timm", "convnext_atto", 32, {}),
    pytest.param("timm", "swin_tiny_patch4_window7_224", 56, {"img_size": 56}, marks=slow),
    ("timm", "mixer_s32_224", 64, {"img_size": 64}),
    ("timm", "regnetx_002", 32, {}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    write_tree(folder / "set", folds=1, pictures=1, aug=0, size=80)
    return folder


def trainer_of(epochs: int) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    one_step = {"max_epochs": epochs, "limit_train_batches": 1, "num_sanity_val_steps": 0}
    plain = {"accelerator": "cpu", "enable_model_summary": False}
    return L.Trainer(**one_step, **quiet, **plain, plugins=[AtomicCheckpointIO()])


@pytest.mark.parametrize(("library", "name", "size", "options"), NETWORKS)
def test_a_network_is_trained_gone_on_with_tested_and_used(library, name, size, options, folder):
    def made(seed: int) -> tuple[LesionClassifier, MSLDDataModule]:
        torch.manual_seed(seed)
        network = create_model(name, 3, library, dropout=0.2, **options)
        data = MSLDDataModule(
            folder / "set", CLASSES, PATTERN, 1, image_size=size, train_images="original",
            cache_dir=folder / "cache",
        )  # fmt: skip
        return LesionClassifier(network, CLASSES, seed=1), data

    classifier, data = made(1)
    before = [parameter.detach().clone() for parameter in classifier.parameters()]
    trainer = trainer_of(1)
    trainer.fit(classifier, data)
    moved = [not torch.equal(a, b) for a, b in zip(before, classifier.parameters(), strict=True)]
    # of these sizes some parts see one pixel, and learn nothing
    assert sum(moved) > 0.6 * len(moved)
    file = folder / f"{name}.ckpt"
    trainer.save_checkpoint(file)

    resumed, data = made(2)
    trainer = trainer_of(2)
    trainer.fit(resumed, data, ckpt_path=file, weights_only=True)
    assert [row["epoch"] for row in resumed.history] == [0, 1]
    trainer.save_checkpoint(file)
    trainer.test(resumed, data, verbose=False)
    scored = resumed.outputs["test"]
    assert scored.logits.shape == (3, 3) and scored.logits.isfinite().all()

    torch.manual_seed(3)
    network = create_model(name, 3, library, **options)
    used = LesionClassifier.load_from_checkpoint(file, network=network).eval()
    (batch,) = data.test_dataloader()
    with torch.inference_mode():
        assert torch.allclose(used(batch["image"]), scored.logits, atol=1e-5)
    file.unlink()


@pytest.mark.parametrize("name", models.list_models(module=models))
def test_every_classifier_of_torchvision_can_be_built(name):
    # RegNets compute their widths by tensors
    plain = name.startswith("regnet")
    if plain and name.endswith(("_16gf", "_32gf", "_128gf")):
        pytest.skip("a giant")
    # shapes without numbers: giants, too, in no time
    with torch.device("cpu" if plain else "meta"):
        network = create_model(name, 2, train=1)
        size = network.preprocessing.image_size
        assert network.eval()(torch.zeros(1, 3, size, size)).shape == (1, 2)
    first, *_, last = network.parts()
    trained = {n for n, p in network.backbone.named_parameters() if p.requires_grad}
    assert all(parameter.requires_grad for parameter in network.head.parameters())
    assert any(n.startswith(f"{last}.") for n in trained)
    assert not any(n.startswith(f"{first}.") for n in trained)
