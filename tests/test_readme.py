"""The README's Python is Python, and runs as it stands."""

import re
import subprocess
import sys

from test_sweep import options

from conftest import CLASSES, PATTERN, PROJECT, write_tree


def test_the_python_example_runs(tmp_path):
    """As it stands, but for the names of the small tree and a number of epochs."""
    [example] = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
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


def test_trained_networks_come_back_in_python(run_script, tree, tmp_path):
    """In a process that has imported the package alone: its configs' resolvers come with it."""
    run = [*options(tree, tmp_path / "unused")[:-1], f"hydra.run.dir={tmp_path / 'run'}"]
    assert run_script("train", "fold=1", *run).code == 0
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
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode and "would call 'os.getcwd'" in done.stderr
