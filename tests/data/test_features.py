"""A frozen backbone's features: computed once, equal to the bit however the pass was disturbed."""

import itertools
import shutil
import signal
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from conftest import CLASSES, PATTERN, write_picture, write_tree
from killing import PROCESSES, _plan
from mpoxcv import LesionClassifier, MSLDDataModule
from mpoxcv.data import features as pass_
from mpoxcv.errors import UserError
from mpoxcv.models.network import Network, Preprocessing, make_head

MADE_FOR = Preprocessing(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bicubic", 0.875)


def small_network(seed: int = 0, **changed: object) -> Network:
    """Return a frozen backbone with batch norm and dropout, which must stay as they are."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Conv2d(8, 16, 3, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    backbone[1].running_mean.uniform_(-1, 1)
    made_for = Preprocessing(**(vars(MADE_FOR) | changed))
    return Network(backbone, make_head(16, 3, 0.0, ()), "head", made_for)


def fold_data(folder: Path, fold: int = 1, seed: int = 0, **options: object) -> MSLDDataModule:
    places = {"cache_dir": folder / "cache", "seed": seed}
    return MSLDDataModule(folder / "set", CLASSES, PATTERN, fold, **places | options)


def features_of(folder: Path, network: Network | None = None, **options: object) -> np.ndarray:
    """Return the features of all pictures of a fold, in the order of their digests."""
    data = fold_data(folder, **options)
    data.prepare_for(network or small_network())
    data.setup()
    features = data._on_device()[0].numpy()
    return features[np.argsort(data.cached_digests)]


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """How many pictures each pass computes, by torch."""
    counts: list[int] = []
    compute = pass_._compute

    def counted(backbone, pixels, rows, *rest):
        if rows:
            counts.append(len(rows))
        compute(backbone, pixels, rows, *rest)

    monkeypatch.setattr(pass_, "_compute", counted)
    by_torch(monkeypatch)
    return counts


def by_torch(monkeypatch) -> None:
    engines = pass_._engines
    monkeypatch.setattr(pass_, "_engines", lambda device: engines(device)[-1:])


@pytest.fixture
def two_folds(tmp_path) -> Path:
    """A folder whose set has two folds of the same pictures but two."""
    root = write_tree(tmp_path / "set", folds=1)
    for name in ("FOLDS/fold{}", "FOLDS_AUG/fold{}_AUG"):
        shutil.copytree(root / name.format(1), root / name.format(2))
    write_picture(root / "FOLDS/fold2/Test/Measles/MEA_20_01.jpg", 998)
    write_picture(root / "FOLDS/fold2/Valid/Measles/MEA_10_01.jpg", 999)
    # the same picture under two names is one
    first, second = sorted((root / "FOLDS_AUG/fold1_AUG/Train/Cowpox").iterdir())[:2]
    shutil.copy(first, second)
    return tmp_path


def test_each_distinct_picture_is_computed_once(two_folds, computed):
    one = features_of(two_folds)
    assert computed == [len(one)] == [9 * 3 + 9 * 2 - 1]
    # what is new in fold 2: two pictures, and the one that fold 1 no longer has
    features_of(two_folds, fold=2)
    assert computed[1:] == [3]
    assert np.array_equal(features_of(two_folds, seed=7), one)
    features_of(two_folds, fold=2, batch_size=3, sampler="weighted", train_images="original")
    assert len(computed) == 2


def test_which_fold_comes_first_does_not_matter(two_folds, computed):
    one = features_of(two_folds)
    shutil.rmtree(two_folds / "cache")
    features_of(two_folds, fold=2)
    assert np.array_equal(features_of(two_folds), one) and computed == [44, 45, 2]


@pytest.mark.parametrize(
    "change", [{"image_size": 24}, {"crop": 1.0}, {"crop": "squash"}, {"interpolation": "bilinear"},
               {"mean": (0.5, 0.4, 0.2)}, {"std": (0.2, 0.3, 0.5)}, {"seed": 1}],
)  # fmt: skip
def test_another_weight_or_preprocessing_is_another_cache(change, two_folds, computed):
    one = features_of(two_folds, small_network())
    other = features_of(two_folds, small_network(**change))
    assert computed == [44, 44] and not np.array_equal(one, other)
    assert len(list((two_folds / "cache").glob("features-*"))) == 2


def test_one_changed_statistic_is_another_cache(two_folds, computed):
    network = small_network()
    features_of(two_folds, network)
    network.backbone[1].running_var[3] += 1e-3
    features_of(two_folds, network)
    assert computed == [44, 44]


def damages(data: bytes) -> dict[str, bytes]:
    flipped = {
        f"byte {i}": data[:i] + bytes([data[i] ^ 0xFF]) + data[i + 1 :]
        for i in range(0, len(data), max(1, len(data) // 40))
    }
    return {"empty": b"", "half": data[: len(data) // 2], "text": b"features", **flipped}


def test_what_is_damaged_is_computed_again(two_folds, computed, tmp_path):
    one = features_of(two_folds)
    (file,) = (two_folds / "cache").rglob("*.npz")
    for name, damaged in damages(file.read_bytes()).items():
        file.write_bytes(damaged)
        assert np.array_equal(features_of(two_folds), one), name
    named = np.load(file)["digests"]
    # of another backbone, put there by somebody
    np.savez(file.parent / "zz.npz", digests=named, features=np.zeros((44, 5), np.float32))
    assert np.array_equal(features_of(two_folds), one)
    (file.parent / "zz.npz").unlink()
    np.savez(file.parent / "00.npz", digests=named[:3], features=np.zeros((3, 5), np.float32))
    with pytest.raises(UserError, match="delete it, and begin again"):
        features_of(two_folds)


# processes --------------------------------------------------------------------------------------


def _pass(folder: Path, moment: str | None = None, count: int = 0, number: int = 0) -> None:
    """Compute fold 1's features in a process that may kill itself; write them and what it did."""
    torch.set_num_threads(1)
    pass_.CHUNK, pass_.BATCH = 6, 3
    engines, compute = pass_._engines, pass_._compute
    pass_._engines = lambda device: engines(device)[-1:]

    def planned(backbone, pixels, rows, *rest):
        with (folder / "computed.txt").open("a") as stream:
            stream.write(f"{len(rows)}\n")
        if moment:
            _plan(moment, count, signal.SIGKILL)
        compute(backbone, pixels, rows, *rest)

    pass_._compute = planned
    np.save(folder / f"features{number}.npy", features_of(folder))


def in_process(*arguments: object) -> int | None:
    process = PROCESSES.Process(target=_pass, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode


def counts_of(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "computed.txt").read_text().split()]


@pytest.mark.slow
def test_a_killed_pass_goes_on_and_gives_the_same(two_folds):
    assert in_process(two_folds) == 0
    whole = np.load(two_folds / "features0.npy")
    for moment, count in itertools.product(("before_write", "half_write", "after_write"), (0, 3)):
        shutil.rmtree(two_folds / "cache")
        (two_folds / "features0.npy").unlink()
        (two_folds / "computed.txt").unlink()
        assert in_process(two_folds, moment, count) == -signal.SIGKILL
        assert in_process(two_folds) == 0
        kept = 6 * (count + (moment == "after_write"))
        assert counts_of(two_folds) == [44, 44 - kept], (moment, count)
        assert np.array_equal(np.load(two_folds / "features0.npy"), whole), (moment, count)


def test_of_processes_that_race_one_computes(two_folds):
    racers = [
        PROCESSES.Process(target=_pass, args=(two_folds, None, 0, number)) for number in range(4)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(120)
    assert [racer.exitcode for racer in racers] == [0] * 4
    assert [count for count in counts_of(two_folds) if count] == [44]
    first, *others = [np.load(two_folds / f"features{number}.npy") for number in range(4)]
    assert all(np.array_equal(first, other) for other in others)


# onnxruntime ------------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch):
    """As in a process that has computed nothing."""
    monkeypatch.setattr(pass_, "_onnx", {})
    return pass_._onnx


def test_onnxruntime_gives_what_torch_gives(two_folds, fresh, monkeypatch, capsys):
    by_onnxruntime = features_of(two_folds)
    (said,) = lines(capsys)
    assert "is computed by onnxruntime, " in said
    # the next fold goes on with what was made
    features_of(two_folds, fold=2)
    assert not lines(capsys) and len(fresh) == 1
    by_torch(monkeypatch)
    expected = features_of(two_folds)
    assert len(list((two_folds / "cache").glob("features-*"))) == 2
    assert np.abs(by_onnxruntime - expected).max() < 1e-4 * np.abs(expected).max()
    assert expected.std(0).max() > 1e-3


def lines(capsys) -> list[str]:
    """What was printed, without what a progress bar leaves on no terminal."""
    return [line for line in capsys.readouterr().out.splitlines() if line.strip()]


def fail(*arguments: object, **options: object) -> None:
    raise RuntimeError("no operator\nfor this")


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda m: m.setattr(pass_, "AGREEMENT", -1), "of the largest feature: torch it is."),
        (lambda m: m.setattr(torch.onnx, "export", fail), "and torch does: no operator"),
    ],
)
def test_where_onnxruntime_cannot_torch_computes(
    break_it, said, two_folds, fresh, monkeypatch, capsys
):
    break_it(monkeypatch)
    features_of(two_folds)
    (printed,) = lines(capsys)
    assert printed.endswith(said)
    # neither for the next fold, nor in another process, is it tried again
    features_of(two_folds, fold=2)
    fresh.clear()
    write_picture(two_folds / "set/FOLDS/fold1/Test/Measles/MEA_29_01.jpg", 1234)
    by_us = features_of(two_folds)
    assert not lines(capsys)
    shutil.rmtree(two_folds / "cache")
    by_torch(monkeypatch)
    assert np.array_equal(features_of(two_folds), by_us)


@pytest.mark.parametrize("lacks", ["onnxscript", "onnxruntime"])
def test_without_onnxruntime_torch_computes(lacks, two_folds, fresh, monkeypatch, capsys):
    """Also where it is installed, and broken."""
    if lacks == "onnxscript":
        find = pass_.importlib.util.find_spec
        monkeypatch.setattr(
            pass_.importlib.util, "find_spec", lambda name: None if name == lacks else find(name)
        )
    else:
        monkeypatch.setitem(sys.modules, lacks, None)
    features_of(two_folds)
    assert not lines(capsys) and not fresh
    monkeypatch.undo()
    # once it is mended, it is taken
    features_of(two_folds)
    assert "is computed by onnxruntime" in "".join(lines(capsys))


# training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_frozen_training_is_a_plain_loop_over_the_backbones_outputs(hidden, two_folds, computed):
    network, plain = small_network(), small_network()
    for one in (network, plain):
        torch.manual_seed(3)
        one.head = make_head(16, 3, 0.0, hidden)
    before = {name: tensor.clone() for name, tensor in network.backbone.state_dict().items()}
    made = {"optimizer": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=1.0)}
    classifier = LesionClassifier(network, CLASSES, **made)
    data = fold_data(two_folds, batch_size=8)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=4, accelerator="cpu", enable_model_summary=False, **options)
    trainer.fit(classifier, data)
    assert computed == [44]
    after = network.backbone.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())

    pictures = fold_data(two_folds, batch_size=8)
    pictures.prepare_for(plain)
    pictures._network = None
    pictures.setup()
    loader = pictures.train_dataloader()
    plain.backbone.eval()
    optimizer = made["optimizer"](plain.head.parameters())
    for epoch in range(4):
        loader.set_epoch(epoch)
        for batch in loader:
            assert batch["image"].ndim == 4
            with torch.no_grad():
                features = plain.backbone(batch["image"])
            loss = nn.functional.cross_entropy(plain.head(features), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for ours, theirs in zip(network.head.parameters(), plain.head.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
