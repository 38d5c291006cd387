"""Trained networks as a file that needs neither torch nor mpoxcv."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_predict import assert_refused, trained  # noqa: F401

import mpoxcv
from mpoxcv.pictures.pixels import Form, resize
from mpoxcv.use import deployed
from mpoxcv.use.resizing import Resize
from test_readme import python_of

# after the README's example: what it computed
SAID = """
import sys
assert not {"torch", "mpoxcv"} & {*sys.modules}
chosen = [name for name, p in zip(classes, p_values[0]) if p > 0.1]
print(json.dumps([classes, probabilities[0].tolist(), chosen, float(distance[0])]))
"""


@pytest.fixture
def export(run_script, trained):  # noqa: F811
    return lambda *more: run_script("export", f"run={trained[0]}", "output=lenet.onnx", *more)


@pytest.mark.slow
def test_the_file_gives_what_python_gives(export, trained, tmp_path):  # noqa: F811
    done = export("int8=true")
    assert done.code == 0, done.err
    assert "On 18 test pictures the file is at most" in done.out and "whole numbers" in done.out
    # and nothing of what exporters say
    assert len(done.out.strip().splitlines()) == 3
    model = mpoxcv.load(trained[0])
    # other shapes than those of the tests: a wide one, and a small one
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (50, 90, 3), np.uint8)).save(tmp_path / "wide.png")
    Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(tmp_path / "small.png")
    for picture in ("wide.png", "small.png", str(next(trained[1].rglob("COW_20_01.jpg")))):
        example = python_of("onnxruntime").replace("model.onnx", "lenet.onnx")
        example = example.replace('"photo.jpg"', repr(picture))
        command = [sys.executable, "-c", example + SAID]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        classes, probabilities, chosen, distance = json.loads(said.stdout.splitlines()[-1])
        one = model(tmp_path / picture)
        assert tuple(classes) == model.classes
        np.testing.assert_allclose(probabilities, one.probabilities, atol=1e-5)
        assert {*chosen, one.label} == {*one.prediction_set}
        assert distance == pytest.approx(one.distance, abs=1e-3)
    assert_refused(export(), "lenet.onnx is there, and nothing is overwritten")


def test_a_file_that_gives_something_else_is_not_kept(export, monkeypatch, tmp_path):
    forward = deployed.Deployed.forward

    def other(self, pictures):
        first, *rest = forward(self, pictures)
        return (first + 2e-4, *rest)

    monkeypatch.setattr(deployed.Deployed, "forward", other)
    assert_refused(export(), "does not give what torch gives", "0.0002 (probabilities)")
    assert not (tmp_path / "lenet.onnx").exists()


def test_it_is_checked_on_the_runs_own_pictures_or_not_written(export, tmp_path):
    assert_refused(export(f"data.root={tmp_path / 'gone'}"), "There is no data in")
    assert not (tmp_path / "lenet.onnx").exists()


def test_without_the_packages_it_says_which(export, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert_refused(export(), 'pip install "mpoxcv[pretrained]"')


@pytest.mark.parametrize(
    "form",
    [
        Form(32), Form(224), Form(24, interpolation="bicubic"),
        Form(32, interpolation="bicubic", crop=0.875), Form(64, crop=64 / 74), Form(30, crop=1.0),
    ],
)  # fmt: skip
def test_resizing_is_pillows_to_the_bit(form):
    rng = np.random.default_rng(form.size)
    for height, width in ((50, 90), (64, 64), (20, 300), (33, 34), (400, 401), (9, 9)):
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        made = Resize(form)(torch.from_numpy(picture[None]))[0].permute(1, 2, 0)
        assert np.array_equal(made.numpy(), resize(picture, form)), (height, width)
    # some of Pillow 13's pictures that are higher than wide: another order of roundings
    picture = rng.integers(0, 256, (300, 100, 3), np.uint8)
    made = Resize(form)(torch.from_numpy(picture[None]))[0].permute(1, 2, 0)
    assert np.abs(made.numpy() - resize(picture, form)).max() <= 1


@pytest.mark.parametrize("form", [Form(32, antialias=False), Form(32, interpolation="lanczos")])
def test_what_cannot_be_exported_is_said_so(form):
    with pytest.raises(mpoxcv.errors.UserError, match="cannot be exported as it was in training"):
        Resize(form)
