"""The README's Python is Python, and runs as it stands."""

import re
import shutil
import subprocess
import sys

import pytest

from conftest import CLASSES, PATTERN, PROJECT, write_picture, write_tree
from mpoxcv import LesionClassifier, load_runs
from mpoxcv.errors import UserError


def python_of(word: str) -> str:
    """Return the one Python example that holds a word."""
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    [example] = [block for block in blocks if word in block]
    return example


@pytest.mark.slow
def test_the_python_example_runs(tmp_path):
    """As it stands, but for the names of the small tree and a number of epochs."""
    example = python_of("lightning")
    write_tree(tmp_path / "data/msld_v2", folds=3)
    small = {
        r"classes = \[.*\]": f"classes = {CLASSES}",
        r'names = r".*"': f"names = {PATTERN!r}".replace("\\", r"\\"),
        r"max_epochs=\d+": "max_epochs=1",
    }
    for pattern, value in small.items():
        example, count = re.subn(pattern, value, example)
        assert count == 1, pattern
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_three_lines_classify_a_photograph(finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished[0], tmp_path / "run")
    example = re.sub(r'"logs/.*?"', '"run"', python_of("mpoxcv.load"))
    write_picture(tmp_path / "photo.jpg", 1)
    monkeypatch.chdir(tmp_path)
    exec(example)
    said = capsys.readouterr().out
    assert said.startswith("photo.jpg: ") and "With a probability of 90% it is " in said


def test_trained_networks_come_back_in_python(finished, tmp_path):
    """In a process that has imported the package alone: its configs' resolvers come with it."""
    shutil.copytree(finished[0], tmp_path / "run")
    code = """
from mpoxcv import LesionClassifier, load_runs
classifier = LesionClassifier.load_from_checkpoint("run/checkpoints/best.ckpt")
[run] = load_runs(".")
for name, weights in run.classifier.state_dict().items():
    assert weights.equal(classifier.state_dict()[name]), name
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # the network is built as the config says, and so only if it may be
    config = tmp_path / "run/.hydra/config.yaml"
    config.write_text(config.read_text().replace("mpoxcv.create_model", "os.getcwd"))
    with pytest.raises(UserError, match=r"would call 'os\.getcwd'"):
        LesionClassifier.load_from_checkpoint(tmp_path / "run/checkpoints/best.ckpt")
    with pytest.raises(UserError, match=r"would call 'os\.getcwd'"):
        load_runs(tmp_path)
