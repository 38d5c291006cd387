"""Mistakes of every kind: one clear message, exit code not 0, nothing left that lies."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from conftest import CLASSES, PATTERN, PROJECT, QUICK


@pytest.fixture
def train(run_script, tree):
    def run(*options: str):
        shape = [
            f"data.root={tree}",
            f"data.classes=[{','.join(CLASSES)}]",
            f"data.name_pattern='{PATTERN}'",
        ]
        return run_script("train", *shape, "trainer=cpu", "trainer.max_epochs=1", *QUICK, *options)

    return run


def assert_refused(done, *words: str) -> None:
    assert done.code == 1
    assert done.err.count("error: ") == 1, done.err
    assert "Traceback" not in done.out + done.err
    for word in words:
        assert word in done.err, done.err


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("data.root=nowhere", ["no data in", "nowhere", "get_data.py", "data=synthetic"]),
        ("fold=6", ["Fold 6 is missing", "fold1, fold2"]),
        ("fold=x", ["fold=x"]),
        ("fold=0", ["fold=0"]),
        ("fold=1.5", ["fold=1.5"]),
        ("folt=3", ["no option 'folt'", "'fold'"]),
        ("trainer.max_epoch=3", ["Did you mean 'trainer.max_epochs'"]),
        ("lr=0.1", ["Did you mean 'optimizer.lr'"]),
        ("model=lenett", ["Did you mean 'lenet'"]),
        ("data=synthtic", ["Did you mean 'synthetic'"]),
        ("model=torchvision model.name=resnet81", ["Did you mean 'resnet18'"]),
        ("trainer.max_epochs=many", ["trainer.max_epochs=many should be a number"]),
        ("optimizer.lr=fast", ["optimizer.lr=fast should be a number"]),
        ("resume=flase", ["resume=flase should be true or false"]),
        ("data.batch_size=0", ["data.batch_size=0"]),
        ("data.sampler=random", ["shuffle, fixed, weighted"]),
        ("data.train_images=augmentd", ["Did you mean 'augmented'"]),
        ("data.mean=[0.5]", ["three numbers"]),
        ("data.threads=0", ["data.threads=0"]),
        ("data.image_size=64", ["LeNet takes pictures of shape (3, 32, 32)", "data.image_size=32"]),
        ("data.classes=null", ["data.classes is empty"]),
        ("classifier.class_weights=even", ["classifier.class_weights=even"]),
        ("classifier.compile=fastest", ["true, false, default, reduce-overhead"]),
        ("classifier.class_weights=[1,2]", ["2 numbers for 3 classes"]),
        ("classifier.label_smoothing=1.5", ["label_smoothing=1.5"]),
        ("ckpt_path=last", ["no checkpoint", "hydra.run.dir=DIR"]),
        ("ckpt_path=gone.ckpt", ["no checkpoint gone.ckpt"]),
        ("ckpt_path=http://a/last.ckpt", ["refused", "only files"]),
        ("trainer=gpu", ["gpu"]),
        ("data.exclude=[", ["override"]),
        ("logger=null", ["logger=none"]),
    ],
)
def test_mistakes_in_the_command(train, option, words):
    if option == "trainer=gpu" and shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU")
    assert_refused(train(*option.split()), *words)


def test_an_empty_split(train, tree):
    shutil.rmtree(tree / "FOLDS/fold1/Test")
    (tree / "FOLDS/fold1/Test").mkdir()
    assert_refused(train(), "fold1/Test is empty")


def test_a_class_folder_that_the_config_does_not_name(train, tree):
    shutil.copytree(tree / "FOLDS/fold1/Train/Cowpox", tree / "FOLDS/fold1/Train/Smallpox")
    assert_refused(train(), "Smallpox", "fold1/Train", "data.classes")


def test_bad_pictures_are_named_before_training_and_can_be_left_out(train, tree, tmp_path):
    folder = tree / "FOLDS/fold1/Train/Cowpox"
    names = ["COW_1_01.jpg", "COW_2_01.jpg", "COW_3_01.jpg", "COW_4_01.png"]
    (folder / names[0]).write_bytes((folder / names[0]).read_bytes()[:500])
    (folder / names[1]).write_bytes(b"")
    (folder / names[2]).write_text("not a picture")
    Image.new("1", (20_000, 20_000)).save(folder / names[3])
    assert_refused(train(), "4 picture(s)", *names, "bomb", "data.exclude=[")
    assert not list((tmp_path / "data/cache").glob("32px*.npy"))
    excluded = ",".join(f"'FOLDS/fold1/Train/Cowpox/{name}'" for name in names)
    assert train(f"data.exclude=[{excluded}]").code == 0


def test_no_augmented_folder(train, tree):
    shutil.rmtree(tree / "FOLDS_AUG")
    assert_refused(train(), "FOLDS_AUG", "data.train_images=original")
    assert train("data.train_images=original").code == 0


def test_a_checkpoint_of_another_network_or_other_classes(train, run_script, tmp_path):
    assert train("hydra.run.dir=run").code == 0
    other = ["model=torchvision", "model.name=mobilenet_v3_small"]
    done = train(*other, "ckpt_path=run/checkpoints/last.ckpt")
    assert_refused(done, "run with other options", "model.name: lenet then, mobilenet_v3_small now")
    # nothing tells how it began
    shutil.copy(tmp_path / "run/checkpoints/last.ckpt", tmp_path / "alone.ckpt")
    path = "ckpt_path=alone.ckpt"
    assert_refused(train(*other, path), "another network", "features.0.0.weight", "model.name")
    assert_refused(
        train(path, f"data.classes=[{','.join(CLASSES[::-1])}]"), "trained on the classes"
    )
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    assert_refused(train("ckpt_path=text.ckpt"), "text.ckpt")


def test_a_run_folder_that_is_none(run_script, tmp_path):
    assert_refused(run_script("test", "run=nowhere"), "nowhere", ".hydra/config.yaml")
    assert_refused(run_script("test"), "run")


def command(tree: Path, *options: str) -> list[str | Path]:
    shape = [
        f"data.root={tree}",
        f"data.classes=[{','.join(CLASSES)}]",
        f"data.name_pattern='{PATTERN}'",
    ]
    return [
        sys.executable,
        PROJECT / "scripts/train.py",
        *shape,
        "trainer=cpu",
        "trainer.max_epochs=1",
        *options,
    ]


def run(arguments: list[str | Path], folder: Path):
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=200)
    done.code, done.out, done.err = done.returncode, done.stdout, done.stderr
    return done


@pytest.mark.slow
def test_a_folder_without_read_permission(tree, tmp_path):
    locked = tree / "FOLDS/fold1/Valid/Cowpox"
    locked.chmod(0)
    prefix: list[str | Path] = []
    if os.geteuid() == 0:  # root reads everything unless it gives up this capability
        caps = "-dac_override,-dac_read_search"
        prefix = ["setpriv", f"--bounding-set={caps}", f"--inh-caps={caps}"]
    try:
        assert_refused(run([*prefix, *command(tree)], tmp_path), "No permission", str(locked))
    finally:
        locked.chmod(0o755)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True
    )
    if mount.returncode:
        pytest.skip("no permission to mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_while_the_cache_is_written(train, small_disk):
    cache = small_disk / "cache"
    assert_refused(train(f"data.cache_dir={cache}", "data.image_size=128"), "No space left")
    assert not list(cache.glob("128px*.npy")) and not list(cache.glob("*.partial"))


def test_a_full_disk_while_a_checkpoint_is_written(train, small_disk):
    where = f"callbacks.checkpoint.dirpath={small_disk}/checkpoints"
    assert_refused(train(where), "No space left")
    assert not list((small_disk / "checkpoints").iterdir())


class NotDeterministic(torch.nn.Module):
    """A network with an operation that torch refuses where results must not differ."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3072, 3)

    def forward(self, x):
        return (
            self.linear(x.flatten(1)) + torch.zeros(2).put_(torch.tensor([0]), torch.ones(1)).sum()
        )


@pytest.mark.filterwarnings("ignore:put_ does not have a deterministic")
def test_an_operation_that_gives_other_digits_each_time_is_named(train):
    network = "classifier.network={_target_:test_bad_input.NotDeterministic}"
    assert_refused(
        train("fold=1", network), "put_ does not have a deterministic", "trainer.deterministic=warn"
    )
    assert train("fold=1", network, "trainer.deterministic=warn").code == 0
