"""TensorBoard's pages of a run, in a real browser."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from conftest import PROJECT
from mpoxcv.training.tensorboard import CURVES

pytestmark = pytest.mark.slow

CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def logdir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    command = [
        sys.executable,
        PROJECT / "scripts/train.py",
        "fold=3",
        "data=synthetic",
        "trainer.max_epochs=4",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    return folder / "logs"


@pytest.fixture(scope="module")
def address(logdir):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        logdir,
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                runs = json.load(urllib.request.urlopen(f"{url}/data/runs", timeout=5))
            except OSError:
                runs = []
            if runs:
                break
            time.sleep(0.5)
        assert runs, "TensorBoard lists no run"
        yield url
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium: install Debian's package chromium")
    with sync_api.sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=chromium,
            args=CHROMIUM_FLAGS,
            viewport={"width": 1500, "height": 1300},
        )
        yield context.new_page()
        context.close()


def show(page, address: str, route: str, element: str, shots: Path) -> None:
    page.goto("about:blank")
    page.goto(f"{address}/#{route}")
    page.locator(element).first.wait_for(timeout=60_000)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=shots / f"{route}.png")


def expect(page, *texts: str) -> None:
    for text in texts:  # locators look into shadow roots, inner_text does not
        page.get_by_text(text).first.wait_for(timeout=30_000)


def test_pages(page, address, tmp_path):
    show(page, address, "scalars", "tf-scalar-card", tmp_path)
    expect(page, "f1_macro", "balanced_accuracy", "lr-AdamW")
    show(page, address, "images", "tf-image-loader img", tmp_path)
    expect(page, "learning_curves", "samples", "test")
    show(page, address, "timeseries", "scalar-card", tmp_path)
    show(page, address, "custom_scalars", "tf-custom-scalar-multi-line-chart-card", tmp_path)
    # one chart a metric, with a line each for train and val
    expect(page, "Matches (2)")
    assert page.get_by_text("Matches (2)").count() == len(CURVES)
    show(page, address, "hparams", "tf-hparams-table-view", tmp_path)
    expect(page, "optimizer.lr", "data.name", "scores/f1_macro/test", "scores/f1_macro/val_best")


def test_a_fold_is_one_run_with_everything_that_is_promised(address):
    def tags(plugin: str) -> set[str]:
        url = f"{address}/data/plugin/{plugin}/tags"
        [found] = json.load(urllib.request.urlopen(url, timeout=10)).values()
        return set(found)

    scalars = tags("scalars")
    for name in ("loss", "accuracy", "f1_macro", "auroc_weighted", "ece"):
        assert {f"curves/{name}/{split}" for split in ("train", "val")} <= scalars
        assert {f"scores/{name}/{split}" for split in ("val_best", "test")} <= scalars
    # no final score among the curves
    assert {tag.rpartition("/")[2] for tag in scalars if tag.startswith("curves/")} == {
        "train",
        "val",
    }
    assert {"per_class/f1/Monkeypox", "per_class/auroc/Cowpox"} <= scalars
    figures = {"confusion_matrix", "roc", "precision_recall", "reliability", "mistakes"}
    samples = {f"samples/{split}" for split in ("train", "val", "test")}
    assert {f"test/{name}" for name in figures} | samples <= tags("images")
