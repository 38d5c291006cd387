"""scripts/train.py and scripts/test.py as their users call them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from conftest import CLASSES, PATTERN, PROJECT, QUICK, write_tree
from mpoxcv.datasets.synthetic import write_synthetic
from mpoxcv.evaluation.predictions import classes_of, probabilities_of, read_predictions
from mpoxcv.evaluation.summary import summarise
from mpoxcv.training.classifier import LesionClassifier

HEADLINE = (
    "loss", "accuracy", "balanced_accuracy", "precision_macro", "precision_weighted", "recall_macro", "recall_weighted",
    "f1_macro", "f1_weighted", "auroc_macro", "auroc_weighted", "ece",
)  # fmt: skip


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "synthetic"
    write_synthetic(root, size=48, copies=1, folds=(3,))
    return root


def small(root: Path) -> list[str]:
    """Options for a tree of ``write_tree``."""
    return [
        f"data.root={root}",
        f"data.classes=[{','.join(CLASSES)}]",
        f"data.name_pattern='{PATTERN}'",
        "trainer=cpu",
    ]


def interrupt_after(patch: pytest.MonkeyPatch, epochs: int) -> None:
    """Have a fit end with an error at the beginning of an epoch."""
    start = LesionClassifier.on_train_epoch_start

    def interrupted(self: LesionClassifier) -> None:
        if self.current_epoch == epochs:
            raise RuntimeError("the power is off")
        start(self)

    patch.setattr(LesionClassifier, "on_train_epoch_start", interrupted)


def the_run(folder: Path) -> Path:
    [run] = (folder / "logs/runs/lenet").iterdir()
    return run


def assert_equal_to_scikit_learn(run: Path) -> None:
    written = json.loads((run / "metrics.json").read_text())
    table = read_predictions(run / "predictions.csv")
    classes = classes_of(table)
    for split in ("val", "test"):
        rows = table[table["split"] == split]
        truth, guess, probabilities = rows["label"], rows["prediction"], probabilities_of(rows)
        assert (np.array(classes)[probabilities.argmax(1)] == guess).all()
        expected = {
            "accuracy": sk.accuracy_score(truth, guess),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, guess),
        }
        for average in ("macro", "weighted"):
            scores = sk.precision_recall_fscore_support(
                truth, guess, average=average, zero_division=0
            )
            expected |= {
                f"{k}_{average}": v
                for k, v in zip(("precision", "recall", "f1"), scores[:3], strict=True)
            }
            each = [
                sk.roc_auc_score(truth == name, probabilities[:, i])
                for i, name in enumerate(classes)
            ]
            weights = [(truth == name).sum() for name in classes] if average == "weighted" else None
            expected[f"auroc_{average}"] = np.average(each, weights=weights)
        for name, value in expected.items():
            assert written[f"{split}/{name}"] == pytest.approx(value, abs=1e-6), f"{split}/{name}"
    recall = sk.recall_score(truth, guess, labels=classes, average=None)
    f1 = sk.f1_score(truth, guess, labels=classes, average=None, zero_division=0)
    for i, name in enumerate(classes):
        assert written[f"test/recall/{name}"] == pytest.approx(recall[i], abs=1e-6)
        assert written[f"test/f1/{name}"] == pytest.approx(f1[i], abs=1e-6)
        assert written[f"test/auroc/{name}"] == pytest.approx(each[i], abs=1e-6)


def test_one_fold_leaves_everything_that_is_promised(run_script, synthetic, tmp_path):
    options = [
        "fold=3",
        "data=synthetic",
        f"data.root={synthetic}",
        "data.generator=null",
        "trainer=cpu",
        "trainer.max_epochs=2",
    ]
    done = run_script("train", *options)
    assert done.code == 0, done.err
    assert "SYNTHETIC DATA" in done.out and "Always saying Monkeypox" in done.out
    run = the_run(tmp_path)
    for file in (
        ".hydra/config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "predictions.csv", "metrics.json",
        "provenance.json", "learning_curves.csv", "learning_curves.png", "figures/confusion_matrix.png",
        "figures/roc.png", "figures/precision_recall.png",
        "figures/reliability.png", "figures/mistakes.png", "figures/samples_train.png",
    ):  # fmt: skip
        assert (run / file).stat().st_size > 0, file
    assert {file.parent for file in run.rglob("events.out.tfevents.*")} == {run}
    assert f"tensorboard --logdir {run}" in done.out.replace("\n", "")
    # on 64 pictures a number alone says little: beside it stands the report's interval
    [group] = summarise([run]).content["groups"]
    for name in ("f1_macro", "balanced_accuracy", "accuracy", "auroc_macro"):
        value, low, high = group["pooled"][name]
        # of a network that calls all pictures the same there is none
        interval = f"{low:.3f} to {high:.3f}" if low < high else ""
        assert re.search(rf"{name} .*{value:.3f} .*{interval}", done.out)
    written = json.loads((run / "metrics.json").read_text())
    assert {f"{split}/{name}" for split in ("val", "test") for name in HEADLINE} <= set(written)
    assert_equal_to_scikit_learn(run)
    table = read_predictions(run / "predictions.csv")
    assert table.groupby("split").size().to_dict() == {"val": 153, "test": 64}
    assert set(table["data"]) == {"synthetic"} and set(table["fold"]) == {3}
    assert not table.duplicated(["image", "fold", "split"]).any()
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["status"] == "finished" and provenance["data"]["synthetic"] is True
    assert (
        provenance["epochs"] == 2
        and provenance["versions" if "versions" in provenance else "packages"]["torch"]
    )
    curves = pd.read_csv(run / "learning_curves.csv")
    assert (
        curves["epoch"].tolist() == [0, 1]
        and curves["train/loss"].notna().all()
        and curves["val/loss"].notna().all()
    )


def test_the_same_command_gives_the_same_bytes(run_script, tmp_path):
    tree = write_tree(tmp_path / "set", folds=1, pictures=12)
    options = [*small(tree), "trainer.max_epochs=2", *QUICK[:2]]
    written = []
    for threads in ("1", "3", "null"):  # the first with a cold cache
        assert run_script("train", *options, f"data.threads={threads}").code == 0
        run = the_run(tmp_path)
        written.append(
            [
                (run / f).read_bytes()
                for f in ("predictions.csv", "metrics.json", "learning_curves.csv")
            ]
        )
        shutil.rmtree(tmp_path / "logs")
    assert written[0] == written[1] == written[2]
    assert run_script("train", *options, "seed=1").code == 0
    assert (the_run(tmp_path) / "predictions.csv").read_bytes() != written[0][0]


def test_a_resumed_run_ends_like_one_that_was_not_interrupted(
    run_script, tree, tmp_path, monkeypatch
):
    options = [*small(tree), "data.batch_size=4", "trainer.max_epochs=4", *QUICK]
    assert run_script("train", *options, "hydra.run.dir=whole").code == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert run_script("train", *options, "hydra.run.dir=parts").code != 0
    assert not (tmp_path / "parts/metrics.json").exists()
    assert run_script("train", *options, "hydra.run.dir=parts", "ckpt_path=last").code == 0
    for file in ("predictions.csv", "metrics.json", "learning_curves.csv"):
        assert (tmp_path / "parts" / file).read_bytes() == (
            tmp_path / "whole" / file
        ).read_bytes(), file


def test_an_option_may_name_another(run_script, tree, tmp_path):
    own = ["name=own_${seed}", "callbacks.checkpoint.dirpath=${output_dir}/kept"]
    quick = ["trainer.max_epochs=1", *QUICK]
    done = run_script("train", *small(tree), *quick, "hydra.run.dir=run", *own)
    assert done.code == 0, done.err
    assert (tmp_path / "run/kept/best.ckpt").is_file()


def test_scoring_a_finished_run_again(run_script, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    done = run_script("test", "run=run", "trainer=cpu")
    assert done.code == 0, done.err
    assert re.search(r"\b0 of \d+ metrics differ", done.out)
    [again] = (tmp_path / "logs/tests").iterdir()
    for file in ("predictions.csv", "metrics.json"):
        assert (again / file).read_bytes() == (tmp_path / "run" / file).read_bytes()
    assert all(path.read_bytes() == content for path, content in before.items()), (
        "the run itself was changed"
    )


def test_data_moved_since_the_run(run_script, finished, tmp_path):
    run, tree = finished
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(tree, tmp_path / "moved")
    config = tmp_path / "run/.hydra/config.yaml"
    config.write_text(config.read_text().replace(str(tree), str(tmp_path / "gone")))
    assert "There is no data" in run_script("test", "run=run", "trainer=cpu").err
    assert run_script("test", "run=run", "trainer=cpu", "data.root=moved").code == 0


@pytest.mark.parametrize(
    "option",
    [
        "debug=fast logger=csv",
        "debug=overfit trainer.max_epochs=3",
        "debug=limit data.batch_size=1",
        "debug=profile",
        "callbacks=early_stopping callbacks.early_stopping.patience=1 logger=csv scheduler=plateau"
        " data.train_images=original data.mean=[0.5,0.5,0.5] data.std=[0.2,0.2,0.2]",
        "logger=none scheduler=onecycle optimizer=adam data.sampler=weighted data.train_images=augmented"
        " classifier.class_weights=balanced classifier.label_smoothing=0.1"
        " +data.augment={_target_:torchvision.transforms.v2.RandomHorizontalFlip}",
        "experiment=lenet_original scheduler=step",
        pytest.param(
            "model=torchvision model.name=mobilenet_v3_small data.image_size=40",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_options_work(run_script, tree, option):
    quick = ["trainer.max_epochs=2", *QUICK[:3]]
    done = run_script("train", *small(tree), *quick, *option.split())
    assert done.code == 0, done.err


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tree, tmp_path):
    """Real processes: pytest's own must not become rank 0."""
    options = [
        *small(tree),
        "data.batch_size=4",
        "trainer.max_epochs=3",
        "classifier.class_weights=balanced",
    ]
    for name, more in (
        ("one", []),
        ("two", ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]),
    ):
        command = [
            sys.executable,
            PROJECT / "scripts/train.py",
            *options,
            *more,
            f"hydra.run.dir={name}",
        ]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    one, two = (read_predictions(tmp_path / name / "predictions.csv") for name in ("one", "two"))
    assert one["image"].tolist() == two["image"].tolist()
    assert np.allclose(probabilities_of(one), probabilities_of(two), atol=1e-5)
    one, two = (pd.read_csv(tmp_path / name / "learning_curves.csv") for name in ("one", "two"))
    assert np.allclose(one, two, atol=1e-4)


@pytest.mark.slow
def test_real_photographs(run_script, real_data, tmp_path):
    done = run_script(
        "make_folds", f"source={real_data}", "output=folds", "data=msld_v1", "copies=1"
    )
    assert done.code == 0, done.err
    done = run_script("train", "fold=3", "data=msld_v1", "data.root=folds", "trainer.max_epochs=3")
    assert done.code == 0, done.err
    assert "SYNTHETIC" not in done.out
    assert_equal_to_scikit_learn(the_run(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_networks_learn_the_same(tree, tmp_path, run_script):
    for name, options in (("plain", []), ("compiled", ["classifier.compile=reduce-overhead"])):
        done = run_script(
            "train",
            "fold=1",
            *small(tree),
            *options,
            "trainer.max_epochs=3",
            f"hydra.run.dir={name}",
        )
        assert done.code == 0, done.err
    tables = [
        probabilities_of(read_predictions(tmp_path / name / "predictions.csv"))
        for name in ("plain", "compiled")
    ]
    np.testing.assert_allclose(*tables, atol=1e-3)
