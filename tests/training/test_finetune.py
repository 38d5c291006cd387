"""Fine-tuning by config: rates by depth, mixed pictures, averages, a head first, mirror images."""

import functools
import json
import os
import random
import re
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from test_fit import curves, provenance, refused, sound
from test_train import small
from torch import Tensor, nn
from torchvision.transforms import v2

from conftest import CLASSES, PROJECT, write_tree
from killing import MOMENTS, kill_somewhere, start
from mpoxcv import LeNet, LesionClassifier, create_model
from mpoxcv.data.loader import augmented, seeded
from mpoxcv.errors import UserError
from mpoxcv.models.network import Network
from mpoxcv.training.schedules import make_scheduler

KILLS = int(os.environ.get("MPOXCV_KILLS", "10"))
NETWORK = ["model=torchvision", "model.name=resnet18", "data.image_size=32", "data.batch_size=8"]
QUIET = [f"callbacks.{name}=null" for name in ("figures", "samples", "progress", "baselines")]
RESULTS = ("predictions.csv", "metrics.json", "learning_curves.csv")
AUGMENTS = sorted(file.stem for file in (PROJECT / "conf/augment").glob("*.yaml"))


class Norms(nn.Module):
    """A backbone of three parts, with a number of its own beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(3))
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))

    def forward(self, x):
        return self.blocks(self.stem(x + self.token[:, None, None])).mean((2, 3))


def network(train: str | int = "all") -> Network:
    return Network(Norms(), nn.Linear(4, 3), train)


def options(tree: Path, *more: str, run: str = "run") -> list[str]:
    """Three epochs of four steps of a small resnet18."""
    return [
        *small(tree), *NETWORK, *QUIET, "trainer.max_epochs=3", "logger=none", "augment=none",
        "+trainer.enable_progress_bar=false", f"hydra.run.dir={run}", *more,
    ]  # fmt: skip


@pytest.fixture
def train(run_script, tree):
    return lambda *more, **run: run_script("train", *options(tree, *more, **run))


def composed(verb: str, *overrides: str):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return compose(verb, [*overrides])


def state(folder: Path, name: str = "last") -> dict:
    return torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)


def fitting(classifier: LesionClassifier, **options) -> LesionClassifier:
    """Attach a trainer, as far as optimizers and steps ask for one."""
    classifier.trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    return classifier


# rates by depth


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_each_part_has_a_share_of_the_rate_of_the_next(optimizer):
    factory = functools.partial(optimizer, lr=0.1, weight_decay=0.3)
    classifier = LesionClassifier(network(), CLASSES, factory, layer_decay=0.5)
    made = fitting(classifier).configure_optimizers()
    names = {id(parameter): name for name, parameter in classifier.network.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in made.param_groups for p in group["params"]}
    assert rates == pytest.approx({
        "head.weight": 0.1, "head.bias": 0.1,
        "backbone.blocks.1.weight": 0.05, "backbone.blocks.1.bias": 0.05,
        "backbone.blocks.0.weight": 0.025, "backbone.blocks.0.bias": 0.025,
        "backbone.stem.weight": 0.0125, "backbone.stem.bias": 0.0125, "backbone.token": 0.0125,
    })  # fmt: skip
    assert {group["weight_decay"] for group in made.param_groups} == {0.3}


def test_what_is_frozen_is_in_no_group():
    classifier = LesionClassifier(network(1), CLASSES, layer_decay=0.5)
    made = fitting(classifier).configure_optimizers()
    trained = [[p.shape for p in group["params"]] for group in made.param_groups]
    assert trained == [[(3, 4), (3,)], [(4,), (4,)], [(3,)]]


SCHEDULERS = sorted(file.stem for file in (PROJECT / "conf/scheduler").glob("*.yaml"))


@pytest.mark.parametrize("name", [*SCHEDULERS, "cyclic"])
def test_every_schedule_keeps_the_shares(name):
    if name == "cyclic":
        options = {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2, "cycle_momentum": False}
        factory = functools.partial(torch.optim.lr_scheduler.CyclicLR, **options)
    else:
        factory = instantiate(
            composed("train", f"scheduler={name}", "trainer.max_epochs=6").scheduler
        )
    classifier = LesionClassifier(network(), CLASSES, layer_decay=0.5)
    optimizer = fitting(classifier).configure_optimizers()
    schedule = make_scheduler(factory, optimizer, lambda: 2)
    for _ in range(5):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([rates[0] * 0.5**depth for depth in range(4)] + [rates[-1]])
        optimizer.step()
        schedule.step(*([1.0] if name == "plateau" else []))


def test_no_decay_is_one_group_in_the_networks_order():
    classifier = LesionClassifier(network(), CLASSES)
    [group] = fitting(classifier).configure_optimizers().param_groups
    assert [*map(id, group["params"])] == [*map(id, classifier.network.parameters())]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"layer_decay": 0.5}, "LeNet has none: set classifier.layer_decay=1.0"),
        ({"layer_decay": 0}, "layer_decay=0 should be above 0"),
        ({"layer_decay": 1.5}, "at most 1"),
    ],
)
def test_no_decay_without_parts(arguments, says):
    with pytest.raises(UserError, match=re.escape(says)):
        LesionClassifier(LeNet(3), CLASSES, **arguments)


# mixed pictures


def step(mix, classes=CLASSES, **options) -> tuple[Tensor, Tensor, LesionClassifier]:
    """Return a step's loss, and that of one picture after another by its definition."""
    torch.manual_seed(2)
    classifier = fitting(LesionClassifier(network(), classes, mix=mix, **options))
    classifier.setup("fit")
    torch.manual_seed(0)
    images, labels = torch.rand(7, 3, 8, 8), torch.arange(7) % 3
    batch = {"image": images, "label": labels, "index": torch.arange(7)}
    torch.manual_seed(1)
    loss = classifier.training_step(batch, 0)
    torch.manual_seed(1)
    return loss, (images, labels), classifier


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "both"])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 5.0]])
def test_the_loss_of_mixed_pictures_is_that_of_both_labels(kind, weights):
    mix = instantiate(composed("train", f"mix={kind}", "data.classes=[a,b,c]").classifier.mix)
    loss, (images, labels), classifier = step(mix, class_weights=weights, label_smoothing=0.1)
    mixed, targets = mix(images, labels)
    assert not torch.equal(mixed, images) and targets.shape == (7, 3)
    classifier.network.train()
    logits = classifier.network(mixed)
    weight = torch.ones(3) if weights is None else torch.tensor(weights)
    each = -((targets * 0.9 + 0.1 / 3) * weight * logits.log_softmax(1)).sum(1)
    assert torch.allclose(loss, each.sum() / (targets * weight).sum(), atol=1e-6)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 5.0]])
def test_shares_of_one_and_nothing_give_the_loss_of_labels(weights):
    same = lambda images, labels: (images, F.one_hot(labels, 3).float())  # noqa: E731
    losses = [step(mix, class_weights=weights, label_smoothing=0.1)[0] for mix in (None, same)]
    assert torch.allclose(*losses, atol=1e-6)


def test_metrics_take_the_class_of_the_larger_share():
    def mostly_the_next(images, labels):
        shares = F.one_hot(labels, 3) * 0.4 + F.one_hot(labels.roll(-1), 3) * 0.6
        return images, shares

    _, (_, labels), classifier = step(mostly_the_next)
    assert torch.equal(classifier._steps[0][1], labels.roll(-1))
    assert torch.equal(classifier._steps[0][2], torch.arange(7))


def test_features_are_not_mixed():
    with pytest.raises(UserError, match="mixes pictures, and what a frozen backbone"):
        LesionClassifier(network("head"), CLASSES, mix=v2.MixUp(num_classes=3))


@pytest.mark.slow
def test_only_training_mixes_and_each_step_anew(train, run_script, tmp_path, monkeypatch):
    drawn: list[float] = []
    make = v2.MixUp.make_params

    def counted(self, inputs):
        parameters = make(self, inputs)
        drawn.append(parameters["lam"])
        return parameters

    monkeypatch.setattr(v2.MixUp, "make_params", counted)
    sound(train("mix=mixup", "classifier.class_weights=balanced"))
    first, again = drawn.copy(), drawn.clear()
    # 27 pictures in batches of 8, three times
    assert len(first) == 12 == len(set(first))
    sound(train("mix=mixup", "classifier.class_weights=balanced", run="again"))
    assert drawn == first and again is None
    for name in RESULTS:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    # read as a stranger's
    assert "\n0 of " in sound(run_script("test", "run=run", "trainer=cpu")).out
    assert len(drawn) == 12


def test_mixing_is_trained_alone(run_script, tree, tmp_path):
    lockstep = ["hydra/launcher=lockstep", "mix=mixup", "logger=none", "trainer.max_epochs=1"]
    done = sound(run_script("train", "-m", *small(tree), *QUIET, *lockstep, "hydra.sweep.dir=both"))
    assert "trained alone: classifier.mix mixes" in done.out


@pytest.mark.slow
@pytest.mark.parametrize("mix", ["none", "mixup"])
def test_several_processes_mix_their_shares(tree, tmp_path, mix):
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    command = options(tree, *two, f"mix={mix}", "classifier.class_weights=[1,2,3]")
    process = start([o for o in command if o != "trainer=cpu"], tmp_path)
    process.join(300)
    assert process.exitcode == 0, (tmp_path / "log.txt").read_text()[-3000:]
    assert provenance(tmp_path / "run")["accelerator"]["processes"] == 2
    head_first = ["callbacks=head_first", "hydra.run.dir=other"]
    process = start([o for o in [*command, *head_first] if o != "trainer=cpu"], tmp_path)
    process.join(300)
    log = (tmp_path / "log.txt").read_text()
    assert process.exitcode == 1 and "BackboneFinetuning trains in one process alone" in log


# pictures changed one by one


@pytest.mark.parametrize("name", AUGMENTS)
def test_each_picture_of_a_batch_is_drawn_for(name):
    augment = instantiate(composed("train", f"augment={name}").data.augment)
    if name == "none":
        assert augment is None
        return
    one = torch.randint(256, (1, 24, 24, 3), dtype=torch.uint8)
    with seeded(0, torch.device("cpu")):
        changed = augmented(augment, one.expand(64, -1, -1, -1).contiguous())
    assert changed.dtype == torch.uint8 and changed.shape == (64, 24, 24, 3)
    kinds = {picture.numpy().tobytes() for picture in changed}
    assert (len(kinds) == 2) if name == "flips" else (len(kinds) > 8)


@pytest.mark.parametrize(
    "transform",
    [v2.RandomHorizontalFlip(), v2.RandomErasing(1), v2.ColorJitter(0.5), v2.RandomRotation(90),
     v2.RandAugment(), v2.TrivialAugmentWide(), v2.RandomResizedCrop(16), v2.GaussianBlur(3)],
    ids=lambda transform: type(transform).__name__,
)  # fmt: skip
def test_torchvisions_transforms_draw_once_a_call(transform):
    """That is why the loader calls them for each picture: one call is no augmentation of many."""
    torch.manual_seed(3)
    several = transform(torch.randint(256, (1, 3, 24, 24), dtype=torch.uint8).expand(8, -1, -1, -1))
    assert torch.equal(several, several[:1].expand_as(several))


@pytest.mark.slow
@pytest.mark.parametrize("name", AUGMENTS)
def test_every_augmentation_trains_and_is_read_again(train, run_script, name):
    sound(train(f"augment={name}", "trainer.max_epochs=1"))
    assert "\n0 of " in sound(run_script("test", "run=run", "trainer=cpu")).out


# averages, and a head first


@pytest.mark.slow
def test_averages_are_validated_kept_tested_predicted_and_reproduced(train, run_script, tmp_path):
    by_loss = ["callbacks.checkpoint.monitor=val/loss", "callbacks.checkpoint.mode=min"]
    sound(train("callbacks=ema", "callbacks.ema.decay=0.8", *by_loss, "optimizer.lr=0.01"))
    best = state(tmp_path / "run", "best")
    averaged, raw = best["state_dict"], best["current_model_state"]
    name = "network.head.1.weight"
    assert not torch.equal(averaged[name], raw[name])
    assert not torch.equal(averaged["network.backbone.bn1.running_mean"],
                           raw["network.backbone.bn1.running_mean"])  # fmt: skip
    # what the fit validated is what is scored after it
    scored = json.loads((tmp_path / "run/metrics.json").read_text())
    assert curves(tmp_path / "run")["val/loss"].min() == pytest.approx(scored["val/loss"], abs=1e-6)
    assert "\n0 of " in sound(run_script("test", "run=run", "trainer=cpu")).out

    images = "images=set/FOLDS/fold1/Test/Cowpox"
    sound(run_script("predict", "run=run", images, "output=new.csv", "temperature=1"))
    new = pd.read_csv(tmp_path / "new.csv").set_index("image")
    tested = pd.read_csv(tmp_path / "run/predictions.csv")
    for image, row in new.iterrows():
        same = tested[
            (tested["split"] == "test") & (tested["image"] == f"Cowpox/{Path(image).name}")
        ]
        assert np.allclose(
            same[[f"p_{c}" for c in CLASSES]],
            row[[f"p_{c}" for c in CLASSES]].astype(float),
            atol=1e-5,
        )
    again = ["run=run", "trainer=cpu", "hydra.run.dir=again"]
    assert "Identical" in sound(run_script("reproduce", *again)).out
    assert "current_model_state" in state(tmp_path / "again", "best")


def watch_modes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, bool]]:
    """Keep, of each step, which parts were in training."""
    modes: list[dict[str, bool]] = []
    training_step = LesionClassifier.training_step

    def watched(self, batch, batch_idx):
        names = ("backbone.bn1", "backbone.conv1", "head")
        modes.append({n: self.network.get_submodule(n).training for n in names})
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(LesionClassifier, "training_step", watched)
    return modes


@pytest.mark.slow
@pytest.mark.parametrize("train_bn", ["false", "true"])
def test_a_frozen_backbone_is_in_evaluation_and_is_thawed(
    train, run_script, tmp_path, monkeypatch, train_bn
):
    modes = watch_modes(monkeypatch)
    head_first = ["callbacks=head_first", "callbacks.head_first.unfreeze_backbone_at_epoch=2"]
    head_first += [f"callbacks.head_first.train_bn={train_bn}", "optimizer.lr=0.01"]
    sound(train(*head_first, "trainer.max_epochs=2"))
    torch.manual_seed(42)
    begun = create_model("resnet18", 3).state_dict()
    changed = {n for n, w in begun.items()
               if not torch.equal(w, state(tmp_path / "run")["state_dict"][f"network.{n}"])}  # fmt: skip
    frozen = {n for n in changed if n.startswith("backbone.")}
    assert {n for n in changed if n not in frozen} == {"head.1.weight", "head.1.bias"}
    assert bool(frozen) == (train_bn == "true") and not any("conv" in n for n in frozen)
    by_norm = {"backbone.bn1": train_bn == "true", "backbone.conv1": False, "head": True}
    assert modes == [by_norm] * 8

    modes.clear()
    sound(train(*head_first, run="longer"))
    assert modes == [by_norm] * 8 + [{**by_norm, "backbone.conv1": True}] * 4
    last = state(tmp_path / "longer")["state_dict"]
    same = {n for n, w in begun.items() if torch.equal(w, last[f"network.{n}"])}
    # batch norm that is not trained stays as it was, its statistics, too
    assert ("backbone.bn1.running_mean" in same) == (train_bn == "false")
    assert not any("conv" in n for n in same)
    assert "\n0 of " in sound(run_script("test", "run=longer", "trainer=cpu")).out
    again = ["run=longer", "trainer=cpu", "hydra.run.dir=again"]
    assert "Identical" in sound(run_script("reproduce", *again)).out


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_head_first_goes_with_a_schedule_or_says_that_it_does_not(train, scheduler):
    more = ["callbacks=head_first", "callbacks.head_first.unfreeze_backbone_at_epoch=1"]
    done = train(*more, f"scheduler={scheduler}")
    assert done.code == 0 or ("Traceback" not in done.err and "scheduler" in refused(done))
    assert done.code == 0 or scheduler in ("onecycle", "plateau")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("classifier.layer_decay=0.5", "one learning rate: set classifier.layer_decay=1.0"),
        ("model.train=head", "it needs model.train=all"),
        ("model.train=2", "it needs model.train=all"),
    ],
)
def test_what_a_head_first_does_not_go_with_is_a_sentence(train, option, says):
    assert says in refused(train("callbacks=head_first", option))


def test_frozen_parts_are_in_evaluation_where_a_run_goes_on(tree, tmp_path, monkeypatch):
    """Within an epoch, whose beginning is not told again."""
    classifier = fitting(LesionClassifier(network(1), CLASSES))
    classifier.trainer.strategy._optimizers = [classifier.configure_optimizers()]
    classifier.train()
    classifier.network.backbone.stem.training = True
    classifier.on_train_start()
    assert not classifier.network.backbone.stem.training
    assert classifier.network.backbone.blocks[1].training


def test_a_strangers_callback_is_not_called(train, run_script, tmp_path):
    sound(train("callbacks=ema", "trainer.max_epochs=1"))
    config = tmp_path / "run/.hydra/config.yaml"
    text = config.read_text()
    assert "    decay: 0.99\n" in text
    config.write_text(text.replace("    decay: 0.99\n", "    decay:\n      _target_: os.getpid\n"))
    done = run_script("reproduce", "run=run", "hydra.run.dir=again")
    assert "it would call 'os.getpid'" in refused(done)


# mirror images


def probabilities(file: Path) -> np.ndarray:
    return pd.read_csv(file)[[f"p_{name}" for name in CLASSES]].to_numpy()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["all", "head"])
def test_pictures_and_mirror_images_are_averaged(train, run_script, tree, tmp_path, part):
    sound(train(f"model.train={part}", "optimizer.lr=0.0001"))
    folder = tree / "FOLDS/fold1/Test/Cowpox"
    mirrored = tmp_path / "mirrored"
    mirrored.mkdir()
    for file in folder.glob("*.jpg"):
        from PIL import Image, ImageOps

        # lossless, so that only the order of pixels differs
        with Image.open(file) as picture:
            picture.save(mirrored / f"{file.stem}.png")
            ImageOps.mirror(picture).save(mirrored / f"{file.stem}_mirror.png")
    calls = {"plain": "images=mirrored", "flips": "images=mirrored"}
    for name, images in calls.items():
        more = [f"output={name}.csv", f"flips={str(name == 'flips').lower()}"]
        done = sound(run_script("predict", "run=run", images, "temperature=1", *more))
        assert ("averaged over each picture and its mirror image" in done.out) == (name == "flips")
    plain, flips = (probabilities(tmp_path / f"{name}.csv").reshape(-1, 2, 3) for name in calls)
    assert np.abs(plain[:, 0] - plain[:, 1]).max() > 1e-4
    assert np.allclose(flips, plain.mean(1, keepdims=True), atol=1e-6)
    assert pd.read_csv(tmp_path / "flips.csv")["flips"].all()
    assert "flips" not in pd.read_csv(tmp_path / "plain.csv")

    sound(run_script("test", "run=run", "trainer=cpu", "flips=true", "hydra.run.dir=tested"))
    tested = pd.read_csv(tmp_path / "tested/predictions.csv")
    rows = tested[(tested["split"] == "test") & (tested["label"] == "Cowpox")]
    assert np.allclose(rows[[f"p_{n}" for n in CLASSES]], flips[:, 0], atol=1e-4)
    assert tested["flips"].all() and provenance(tmp_path / "tested")["flips"] is True
    assert "flips" not in provenance(tmp_path / "run")


# recipes


@pytest.mark.parametrize("recipe", ["finetune", "pretrain_then_finetune"])
def test_the_recipe_composes(recipe):
    cfg = composed("train", f"experiment={recipe}")
    assert cfg.callbacks.ema.decay == 0.98 and cfg.classifier.layer_decay == 0.8
    assert cfg.classifier.mix is None and cfg.data.augment is None and cfg.model.train == 4
    # a search leaves its learning curves alone
    searched = composed("search", f"experiment={recipe}").callbacks
    assert {name for name, node in searched.items() if "_target_" in node} == {"history"}


SEVEN = (
    "vgg16",
    "resnet50",
    "densenet121",
    "mobilenet_v2",
    "efficientnet_b3",
    "inception_v3",
    "legacy_xception",
)


@pytest.mark.parametrize("name", SEVEN)
def test_the_seven_networks_of_the_paper_have_weights_by_that_name(name):
    library = "timm" if "xception" in name else "torchvision"
    cfg = composed("train", "experiment=ali2024", f"model.name={name}", f"model.library={library}")
    assert cfg.model.weights == "DEFAULT" and cfg.data.train_images == "augmented"
    if library == "timm":
        timm = pytest.importorskip("timm")
        assert timm.get_pretrained_cfg(name).has_weights
    else:
        from torchvision import models

        assert models.get_model_weights(name).DEFAULT


@pytest.mark.slow
def test_a_network_trained_on_one_data_set_starts_the_next(run_script, tmp_path):
    pytest.importorskip("timm")
    recipe = ["experiment=pretrain_then_finetune", "data.image_size=32", "logger=none", *QUIET]
    recipe += ["trainer.max_epochs=1", "+trainer.enable_progress_bar=false", "data.batch_size=9"]
    first = write_tree(tmp_path / "first")
    sound(run_script("train", *small(first), *recipe, "hydra.run.dir=a", "model.weights=null"))
    weights = "model.weights=a/checkpoints/best.ckpt"
    begin = [weights, "hydra.run.dir=b", "optimizer.lr=0", "optimizer.weight_decay=0"]
    two = [o for o in small(first) if not o.startswith("data.classes")]
    sound(
        run_script(
            "train",
            *two,
            "data.classes=[Cowpox,Measles]",
            "data.ignore_classes=[Chickenpox]",
            *recipe,
            *begin,
        )
    )
    one, other = (state(tmp_path / run, "best")["state_dict"] for run in "ab")
    parameters = [
        n for n in one if n.startswith("network.backbone") and n.endswith((".weight", ".bias"))
    ]
    assert len(parameters) > 100 and all(
        torch.allclose(one[n], other[n], atol=1e-6) for n in parameters
    )
    assert other["network.head.1.weight"].shape[0] == 2
    (tmp_path / "a").rename(tmp_path / "gone")
    # the checkpoint holds all of it
    assert "\n0 of " in sound(run_script("test", "run=b", "trainer=cpu")).out


# to the bit

EVERYTHING = [
    "callbacks=[ema,head_first,frequent]", "callbacks.head_first.unfreeze_backbone_at_epoch=1",
    "callbacks.within_epoch.every_n_train_steps=2", "callbacks.ema.decay=0.8", "mix=both", "augment=trivial",
    "scheduler=warmup_cosine", "model.dropout=0.2",
]  # fmt: skip
DECAYED = [
    "callbacks=[ema,frequent]", "callbacks.within_epoch.every_n_train_steps=2", "mix=mixup", "augment=flips",
    "classifier.layer_decay=0.8", "scheduler=onecycle", "classifier.scheduler_interval=step", "model.train=6",
]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    tree = write_tree(folder / "set", folds=1)
    for run, more in (("everything", EVERYTHING), ("decayed", DECAYED)):
        end(options(tree, *more, run=run), folder)
    return folder, tree


def end(command: list[str], folder: Path, *moment: str | int) -> int:
    """Run to the end, or to its death at a moment."""
    process = start(command, folder, *moment)
    process.join(300)
    log = (folder / "log.txt").read_text()
    assert process.exitcode == (-9 if moment else 0), log[-3000:]
    return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize("steps", [3, 4, 5, 8, 10])
@pytest.mark.parametrize("kind", ["everything", "decayed"])
def test_fine_tuning_goes_on_to_the_bit(undisturbed, kind, steps):
    """Killed before, at and after the thaw, within epochs and between them."""
    folder, tree = undisturbed
    more = EVERYTHING if kind == "everything" else DECAYED
    run = f"{kind}-{steps}"
    end(options(tree, *more, run=run), folder, "training_step", steps)
    end(options(tree, *more, "resume=true", run=run), folder)
    for name in RESULTS:
        assert (folder / run / name).read_bytes() == (folder / kind / name).read_bytes(), name


@pytest.mark.slow
def test_fine_tuning_killed_at_random_moments_goes_on_to_the_bit(undisturbed):
    folder, tree = undisturbed
    rng = random.Random(KILLS)
    killed = 0
    for number in range(KILLS):
        kind, more = (("everything", EVERYTHING), ("decayed", DECAYED))[number % 2]
        run, moment = f"random{number}", (*MOMENTS, "at a random time")[number % (len(MOMENTS) + 1)]
        command = options(tree, *more, run=run)
        most = {"training_step": 11, "validation_step": 2, "test_step": 0}
        killed += kill_somewhere(command, folder, moment, rng, (1, 8), most, 12, 300) == -9
        end([*command, "resume=true"], folder)
        for name in RESULTS:
            one, two = ((folder / r / name).read_bytes() for r in (run, kind))
            assert one == two, (kind, moment, name)
    assert killed > KILLS / 2
