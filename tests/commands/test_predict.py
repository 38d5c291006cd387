import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_sweep import options

from conftest import PROJECT, QUICK, write_tree


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A multirun of two folds with patients of their own, but the same Valid and Test; its data."""
    folder = tmp_path_factory.mktemp("trained")
    tree = write_tree(folder / "set")
    for file in [*tree.glob("FOLDS/fold2/Train/*/*"), *tree.glob("FOLDS_AUG/fold2_AUG/Train/*/*")]:
        file.rename(file.with_name(file.name.replace("_", "_5", 1)))
    given = [*options(tree, folder / "sweep"), "data.mean=[0.5,0.4,0.3]", *QUICK]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [str(PROJECT / "scripts/train.py"), "-m", "fold=1,2", *given])
        runpy.run_path(sys.argv[0], run_name="__main__")
    return folder / "sweep", tree


@pytest.fixture
def predict(run_script, tmp_path):
    """Predict, and return the table by file name."""

    def run(folder: Path, images: str | Path, *arguments: str, name: str = "out.csv"):
        given = (f"run={folder}", f"images='{images}'", f"output={name}", "temperature=1")
        done = run_script("predict", *given, *arguments)
        assert done.code == 0, done.err
        table = pd.read_csv(tmp_path / name)
        return done, table.set_index(table["image"].map(lambda path: Path(path).name))

    return run


def p(table: pd.DataFrame) -> np.ndarray:
    return table.filter(regex="^p_").to_numpy()


def assert_refused(done, *words: str) -> None:
    assert (
        done.code == 1 and done.err.count("error: ") == 1 and "Traceback" not in done.out + done.err
    ), done.err
    assert all(word in done.err for word in words), done.err


def test_a_run_gives_its_own_probabilities_and_a_multirun_their_mean(predict, trained):
    sweep, tree = trained
    images = tree / "FOLDS/fold1/Test"
    one, two, both = (
        predict(run, images, name=f"{i}.csv")[1]
        for i, run in enumerate((sweep / "fold=1", sweep / "fold=2", sweep))
    )
    assert len(both) == 9 and (one["n_networks"] == 1).all() and (both["n_networks"] == 2).all()
    assert np.abs(p(one) - p(two)).max() > 1e-4
    np.testing.assert_allclose(p(both), (p(one) + p(two)) / 2, atol=1e-8)
    columns = [name for name in both if name.startswith("p_")]
    assert (both["prediction"] == both[columns].idxmax(axis=1).str.removeprefix("p_")).all()
    own = pd.read_csv(sweep / "fold=1/predictions.csv").query("split == 'test'")
    own = own.set_index(own["image"].str.split("/").str[1]).loc[one.index]
    np.testing.assert_allclose(p(own), p(one), atol=1e-6)


def test_neither_order_nor_company_nor_batch_size_matters(predict, trained, tmp_path):
    sweep, tree = trained
    done, all_of_them = predict(sweep, tree / "FOLDS/fold1/Test", name="all.csv")
    assert "9 picture(s) by 2 network(s)" in done.out and "Research only" in done.out
    small = tmp_path / "small"
    shutil.copytree(sweep, small)
    for config in small.glob("*/.hydra/config.yaml"):
        config.write_text(config.read_text().replace("eval_batch_size: 256", "eval_batch_size: 2"))
    np.testing.assert_allclose(
        p(predict(small, tree / "FOLDS/fold1/Test")[1]), p(all_of_them), atol=1e-6
    )
    _, some = predict(sweep, f"{tree}/FOLDS/fold1/Test/*/*_2[01]_01.jpg", name="some.csv")
    assert len(some) == 6
    np.testing.assert_allclose(p(some), p(all_of_them.loc[some.index]), atol=1e-6)
    (file,) = tree.glob("FOLDS/fold1/Test/Cowpox/COW_20_01.jpg")
    np.testing.assert_allclose(
        p(predict(sweep, file, name="one.csv")[1])[0], p(some.loc[[file.name]])[0], atol=1e-6
    )


def test_unreadable_pictures_are_named_and_the_rest_goes_on(predict, run_script, trained, tmp_path):
    sweep, tree = trained
    new = tmp_path / "new (1)"
    for folder in (".hidden", "__MACOSX", "deep/er"):
        (new / folder).mkdir(parents=True)
    source = next(tree.rglob("COW_20_01.jpg"))
    for place in (".hidden/a.jpg", "__MACOSX/b.jpg", "._c.jpg", "deep/er/[bold]d.JPG"):
        shutil.copy(source, new / place)
    with Image.open(source) as picture:
        picture.convert("L").save(new / "grey.png")
        picture.convert("RGBA").save(new / "alpha.png")
    (new / "cut.jpg").write_bytes(source.read_bytes()[:600])
    (new / "text.jpg").write_text("no picture")
    Image.new("1", (20_000, 20_000)).save(new / "bomb.png")
    shutil.copy(source, new / "latin\udce9.jpg")
    (new / "notes.txt").write_text("not for us")
    done, table = predict(sweep, new)
    assert (
        sorted(table.index) == ["[bold]d.JPG", "alpha.png", "grey.png"]
        and "[bold]d.JPG" in done.out
    )
    assert "4 of 7 picture(s) left out" in done.err and "notes" not in done.err
    assert all(name in done.err for name in ("cut.jpg", "text.jpg", "bomb.png", "latin"))
    assert_refused(
        run_script("predict", f"run={sweep}", f"images='{new}/cut.jpg'"),
        "None of 1 picture(s)",
        "cut.jpg",
    )
    assert not (tmp_path / "predictions.csv").exists()


def test_held_out_averages_only_networks_that_never_saw_the_patient(
    predict, run_script, trained, tmp_path
):
    sweep, tree = trained
    new = tmp_path / "new"
    new.mkdir()
    for name in ("FOLDS/fold1/Train/Cowpox/COW_1_01.jpg", "FOLDS/fold2/Train/Cowpox/COW_51_01.jpg",
                 "FOLDS/fold1/Valid/Cowpox/COW_11_01.jpg", "FOLDS/fold1/Test/Cowpox/COW_21_01.jpg"):  # fmt: skip
        shutil.copy(tree / name, new)
    shutil.copy(new / "COW_1_01.jpg", new / "COW_1_77_aug3.jpg")  # another name, the same patient
    shutil.copy(new / "COW_1_01.jpg", new / "unnamed.jpg")
    done, table = predict(sweep, new, "held_out=true")
    expected = {"COW_1_01.jpg": 1, "COW_1_77_aug3.jpg": 1, "COW_21_01.jpg": 2, "COW_51_01.jpg": 1}
    assert table["n_networks"].to_dict() == expected
    assert "2 of 6" in done.err and "COW_11_01.jpg: every network has seen its patient" in done.err
    assert "unnamed.jpg" in done.err
    one, two, both = (
        predict(run, new, name=f"{i}.csv")[1]
        for i, run in enumerate((sweep / "fold=1", sweep / "fold=2", sweep))
    )
    assert (both["n_networks"] == 2).all() and len(both) == 6
    for name, other in (("COW_1_01.jpg", two), ("COW_51_01.jpg", one), ("COW_21_01.jpg", both)):
        np.testing.assert_allclose(p(table.loc[[name]]), p(other.loc[[name]]), atol=1e-7)
    assert not (tmp_path / "data").exists()  # no cache is built for the patients' names
    done = run_script("predict", f"run={sweep}", f"images={new}/COW_11_01.jpg", "held_out=true")
    assert_refused(done, "None of 1 picture(s)", "every network has seen its patient")


def test_held_out_refuses_other_data_than_the_runs(run_script, trained, tmp_path):
    sweep, tree = trained
    given = [f"run={sweep}", f"images={tree}", "held_out=true"]
    assert_refused(run_script("predict", *given, "data.root=nowhere"), "nowhere", "data.root=DIR")
    other = tmp_path / "other"
    shutil.copytree(tree, other)
    for split, became in (("Test", "x"), ("Valid", "Test"), ("x", "Valid")):
        (other / "FOLDS/fold2" / split).rename(other / "FOLDS/fold2" / became)
    assert_refused(
        run_script("predict", *given, f"data.root={other}"),
        "fold=2",
        "split anew",
        "18 of the run's",
    )
    (other / "FOLDS").rename(tmp_path / "FOLDS")  # without held_out no data set is needed
    assert run_script("predict", f"run={sweep}", f"images={tree}", f"data.root={other}").code == 0


def test_what_the_networks_are_is_said(predict, trained, tmp_path):
    sweep, tree = trained
    copy = tmp_path / "copy"
    shutil.copytree(sweep, copy)
    record = copy / "fold=2/provenance.json"
    content = json.loads(record.read_text()) | {"status": "interrupted"}
    content["data"]["name"] = "synthetic"
    record.write_text(json.dumps(content))
    done, table = predict(copy, next(tree.rglob("COW_20_01.jpg")))
    assert "fold=2 is not finished" in done.err and "fold=1 is not" not in done.err
    assert (
        table["data"].tolist() == ["msld_v2; synthetic"]
        and "trained on msld_v2; synthetic" in done.out
    )


def test_networks_that_cannot_be_averaged(run_script, trained, tmp_path):
    sweep, tree = trained
    copy = tmp_path / "copy"
    shutil.copytree(sweep, copy)
    given = [f"run={copy}", f"images={tree}"]
    config = copy / "fold=2/.hydra/config.yaml"
    config.write_text(config.read_text().replace("- Cowpox", "- Smallpox"))
    assert_refused(run_script("predict", *given), "Smallpox")
    checkpoint = torch.load(copy / "fold=2/checkpoints/best.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["classes"][1] = "Smallpox"
    torch.save(checkpoint, copy / "fold=2/checkpoints/best.ckpt")
    assert_refused(run_script("predict", *given), "fold=1 have different classes")
    shutil.copy(sweep / "fold=2/.hydra/config.yaml", config)
    (copy / "fold=2/checkpoints/best.ckpt").write_text("no checkpoint")
    assert_refused(run_script("predict", *given), "fold=2/checkpoints/best.ckpt", "cannot be read")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run": "nowhere"}, "no trained run in nowhere"),
        ({"run": "5"}, "no trained run in 5"),
        ({"images": "nowhere"}, "names no picture"),
        ({"images": "'*.gone'"}, "names no picture"),
        ({"images": "empty"}, "names no picture"),
        ({"run": None}, "run= is missing"),
        ({"images": None}, "images= is missing"),
        ({"output": "there.csv"}, "there.csv is there, and nothing is overwritten"),
        ({"output": "empty", "overwrite": "true"}, "empty is there"),
        ({"output": "there.csv", "overwrite": "flase"}, "overwrite=flase should be true or false"),
        ({"held_out": "ture"}, "held_out=ture should be true or false"),
        ({"imagse": "x"}, "Did you mean 'images'"),
    ],
)
def test_mistakes_are_one_clear_message(run_script, trained, tmp_path, change, said):
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "empty").mkdir()
    given = {"run": trained[0], "images": trained[1]} | change
    assert_refused(
        run_script("predict", *(f"{k}={v}" for k, v in given.items() if v is not None)), said
    )
    assert (tmp_path / "there.csv").read_text() == "mine" and not (
        tmp_path / "predictions.csv"
    ).exists()
    assert not list((tmp_path / "empty").iterdir())


def test_overwriting_when_asked(predict, trained, tmp_path):
    (tmp_path / "out.csv").write_text("old")
    _, table = predict(trained[0], next(trained[1].rglob("*.jpg")), "overwrite=true")
    assert len(table) == 1
