"""A network and an augmentation of somebody's own, in a file of the working folder."""

import sys
from pathlib import Path

import pytest
import torch
from test_sweep import options

from mpoxcv import LesionClassifier
from mpoxcv.errors import UserError

OWN = """
from torch import nn
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, classes)
    def forward(self, images):
        return self.layer(images.flatten(1))
class Sized(Net):
    def __init__(self, num_classes, bias=True):
        super().__init__(num_classes)
        self.layer = nn.Linear(3 * 32 * 32, num_classes, bias=bias)
class Flip(nn.Module):
    def forward(self, images):
        return images.flip(-1)
"""
NETWORK = "classifier.network={_target_:own_code_of_test.Net,classes:3}"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a file of own code that no other test has imported."""
    (tmp_path / "own_code_of_test.py").write_text(OWN)
    # what the command appends is taken back
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_code_of_test", raising=False)
    return tmp_path


def run_options(tree: Path, folder: Path) -> list[str]:
    return [*options(tree, folder)[:-1], f"hydra.run.dir={folder}"]


def test_own_code_is_trained_and_of_a_stranger_refused(run_script, tree, own):
    flip = "+data.augment={_target_:own_code_of_test.Flip}"
    done = run_script("train", "fold=1", NETWORK, flip, *run_options(tree, own / "run"))
    assert done.code == 0, done.err
    assert sys.path[0] != str(own) and sys.path[-1] == str(own)
    checkpoint = own / "run/checkpoints/best.ckpt"
    # in a process that has not trained
    sys.path.pop()
    del sys.modules["own_code_of_test"]
    for name, given in (("test", []), ("predict", ["images=set", "output=table.csv"])):
        refused = run_script(name, "run=run", *given)
        assert refused.code == 1 and "own_code_of_test" in refused.err and "trust=" in refused.err
        assert "own_code_of_test" not in sys.modules and str(own) not in sys.path
    with pytest.raises(UserError, match=r"would call 'own_code_of_test\.Net'"):
        LesionClassifier.load_from_checkpoint(checkpoint)
    done = run_script("test", "run=run", "trust=[own_code_of_test]", "trainer=cpu")
    assert done.code == 0, done.err
    assert " 0 of " in done.out or "\n0 of " in done.out


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("own_code_of_tests.Net", "No module named 'own_code_of_tests'"),
        ("own_code_of_test.Nett", "No module named 'own_code_of_test.Nett'"),
        ("broken_code_of_test.Net", "No module named 'no_such_package'"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_named(target, said, run_script, tree, own):
    (own / "broken_code_of_test.py").write_text("import no_such_package")
    network = f"classifier.network={{_target_:{target},classes:3}}"
    done = run_script("train", "fold=1", network, *run_options(tree, own / "run"))
    assert done.code == 1 and "Traceback" not in done.err
    assert f"classifier.network names '{target}', which cannot be imported" in done.err
    assert said in done.err and str(own) in done.err


def test_a_summary_names_the_cause(run_script, tree, own):
    network = "classifier.network={_target_:own_code_of_tests.Net,classes:3}"
    done = run_script("train", "-m", "fold=1", network, *options(tree, own / "sweep"))
    assert done.code == 1
    assert (
        "classifier.network names 'own_code_of_tests.Net'"
        in (own / "sweep/fold=1/job.json").read_text()
    )


def test_a_network_of_ones_own_is_a_model(run_script, tree, own):
    network = ["model=own", "model._target_=own_code_of_test.Sized", "+model.bias=false"]
    done = run_script("train", "fold=1", *network, *run_options(tree, own / "run"))
    assert done.code == 0, done.err
    state = torch.load(own / "run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "network.layer.weight": (3, 3072)
    }
    refused = run_script("test", "run=run", "trainer=cpu")
    assert refused.code == 1 and "trust=['own_code_of_test.Sized']" in refused.err
    done = run_script("test", "run=run", "trainer=cpu", "trust=[own_code_of_test]")
    assert done.code == 0 and "0 of " in done.out, done.err
    # the folder of a run that is given none has the network's name
    shown = run_script("train", *network, "--cfg", "job", "--resolve")
    assert "name: own_code_of_test.Sized" in shown.out, shown.err
    missing = run_script("train", "fold=1", "model=own", *run_options(tree, own / "other"))
    assert (
        missing.code == 1 and "network._target_" in missing.err and "Traceback" not in missing.err
    )
