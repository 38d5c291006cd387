"""The package from outside: its address, what it costs to import, and what it leaves alone."""

import subprocess
import sys
from pathlib import Path

import pytest

import mpoxcv

# what a process shows of itself to the code that uses the package
STATE = """
import gc, logging, os, sys, warnings
def state():
    loggers = {name: logger.level for name, logger in logging.Logger.manager.loggerDict.items()
               if isinstance(logger, logging.Logger)}
    return {
        "filters": list(warnings.filters), "environment": dict(os.environ), "argv": list(sys.argv),
        "collection": gc.get_threshold(), "loggers": loggers, "root": logging.getLogger().level,
        "fonts": dict(matplotlib.rcParams), "backend": matplotlib.get_backend(),
    }
"""
USE = """
from mpoxcv import undocumented
os.environ.pop(undocumented.NVML_CHECK, None)
import cv2, lightning as L, matplotlib, torch, torchvision, torchmetrics, torch.utils.tensorboard
import lightning.pytorch.loggers, matplotlib.figure, matplotlib.ticker, sklearn.linear_model
# the libraries set some themselves; if this one no longer does, nothing need be done against it
assert os.environ[undocumented.NVML_CHECK] == "1"
L.Trainer(deterministic=True, logger=False, enable_checkpointing=False, accelerator="cpu")
before = state()
from hydra import compose, initialize_config_dir
import mpoxcv, mpoxcv.cli
from mpoxcv.commands.train import build
from mpoxcv.training.callbacks import Baselines, Figures, History, Results, SamplePictures
with initialize_config_dir(CONF, version_base="1.3"):
    cfg = compose("train", [f"data.root={ROOT}", f"data.classes={CLASSES}", "trainer=cpu",
        f"data.name_pattern='{PATTERN}'", "output_dir=out", "trainer.max_epochs=1",
        "data.cache_dir=cache", "callbacks.progress=null"])
data, classifier, trainer = build(cfg)
trainer.fit(classifier, data)
trainer.validate(classifier, data, verbose=False)
trainer.test(classifier, data, verbose=False)
after = state()
# loggers that did not exist are not changed
after["loggers"] = {name: after["loggers"][name] for name in before["loggers"]}
changed = [name for name in before if before[name] != after[name]]
assert not changed, {name: (before[name], after[name]) for name in changed}
"""


def test_every_public_name_is_there_and_dir_lists_it():
    for name in mpoxcv.__all__:
        assert getattr(mpoxcv, name).__name__ == name and name in dir(mpoxcv)
    with pytest.raises(AttributeError, match="LeNets"):
        _ = mpoxcv.LeNets


def test_importing_the_package_brings_neither_torch_nor_hydra():
    heavy = "{'torch', 'lightning', 'hydra', 'numpy', 'pandas'}"
    code = f"import sys, mpoxcv; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_as_a_library_it_leaves_the_process_as_it_was(tree, tmp_path):
    from conftest import CLASSES, PATTERN, PROJECT

    names = {"CONF": str(PROJECT / "conf"), "ROOT": str(tree), "CLASSES": f"[{','.join(CLASSES)}]"}
    given = "".join(
        f"{name} = {value!r}\n" for name, value in (names | {"PATTERN": PATTERN}).items()
    )
    code = f"import matplotlib\n{STATE}\n{given}\n{USE}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Path(tmp_path, "out/metrics.json").is_file()
