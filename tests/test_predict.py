import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conftest import write_tree
from test_sweep import options, start


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A multirun of two folds, and its data set."""
    folder = tmp_path_factory.mktemp("trained")
    tree = write_tree(folder / "set")
    process = start(["-m", "fold=1,2", *options(tree, folder / "sweep")], folder)
    assert process.wait(200) == 0, process.stderr.read()
    return folder / "sweep", tree


def probabilities(folder, name="predictions.csv"):
    table = pd.read_csv(folder / name)
    return table.set_index(table["image"].str.split("/").str[-2:].str.join("/"))[
        [c for c in table if c.startswith("p_")]
    ]


def test_a_run_and_the_average_of_a_multirun(run_script, trained, tmp_path):
    sweep, tree = trained
    test = tree / "FOLDS/fold1/Test"
    for run, output in ((sweep / "fold=1", "1.csv"), (sweep / "fold=2", "2.csv"), (sweep, "both.csv")):
        done = run_script("predict", f"run={run}", f"images={test}", f"output={output}")
        assert done.code == 0, done.err
    one, two, both = (probabilities(tmp_path, f"{name}.csv") for name in ("1", "2", "both"))
    assert np.allclose((one + two) / 2, both, atol=1e-7) and len(both) == 9
    own = pd.read_csv(sweep / "fold=1/predictions.csv").query("split == 'test'").set_index("image")
    assert np.allclose(own.loc[one.index, one.columns], one, atol=1e-6)
    assert "Research only" in done.out


def test_unreadable_pictures_are_named_and_the_rest_goes_on(run_script, trained, tmp_path):
    sweep, tree = trained
    new = tmp_path / "new"
    new.mkdir()
    picture = Image.open(next(tree.rglob("*.jpg")))
    picture.convert("L").save(new / "grey.png")
    picture.convert("RGBA").save(new / "alpha.png")
    (new / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    (new / "notes.txt").write_text("no picture")
    done = run_script("predict", f"run={sweep}", f"images={new}")
    assert done.code == 0 and "broken.jpg" in done.err and "notes" not in done.err
    assert sorted(probabilities(tmp_path).index.str.split("/").str[-1]) == ["alpha.png", "grey.png"]
    one = run_script("predict", f"run={sweep}", f"images={new / 'grey.png'}", "output=one.csv")
    some = run_script("predict", f"run={sweep}", f'images="{new}/g*.png"', "output=some.csv")
    assert one.code == some.code == 0
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "some.csv").read_bytes()


def test_only_networks_that_never_saw_the_patient(run_script, trained, tmp_path):
    sweep, tree = trained
    done = run_script("predict", f"run={sweep}", f"images={tree}/FOLDS/fold1", "held_out=true")
    assert done.code == 0 and "every network was trained on its patient" in done.err
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert len(table) == 9 and table["image"].str.contains("/Test/").all() and (table["n_networks"] == 2).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run": "nowhere"}, "no trained run"),
        ({"images": "nowhere"}, "names no picture"),
        ({"images": "broken.jpg"}, "None of 1 picture"),
        ({"run": None}, "run"),
        ({"output": "there.csv"}, "nothing is overwritten"),
        ({"imagse": "x"}, "images"),
    ],
)
def test_mistakes_are_one_clear_message(run_script, trained, tmp_path, change, said):
    (tmp_path / "broken.jpg").write_bytes(b"")
    (tmp_path / "there.csv").write_text("mine")
    given = {"run": trained[0], "images": trained[1]} | change
    done = run_script("predict", *(f"{k}={v}" for k, v in given.items() if v is not None))
    assert done.code == 1 and said in done.err and "Traceback" not in done.err
    assert (tmp_path / "there.csv").read_text() == "mine" and not (tmp_path / "predictions.csv").exists()
