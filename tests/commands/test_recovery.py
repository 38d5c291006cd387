"""Runs that are killed at any moment end like one that was never disturbed, to the bit."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from conftest import CLASSES, PATTERN, write_tree
from killing import MOMENTS, start

KILLS = int(os.environ.get("MPOXCV_KILLS", "16"))
RESULTS = ("predictions.csv", "metrics.json", "learning_curves.csv", "baselines.csv")
NETWORK = (
    "classifier.network={_target_:torch.nn.Sequential,_args_:[{_target_:torch.nn.Flatten},"
    "{_target_:torch.nn.Dropout,p:0.3},{_target_:torch.nn.Linear,in_features:3072,out_features:3}]}"
)


def options(root: Path, run: str, cache: str = "cache") -> list[str]:
    """A run with everything that a resume could get wrong.

    That is dropout, augmentation, a schedule, and checkpoints within epochs.
    """
    return [
        "fold=1", f"data.root={root}", f"data.classes=[{','.join(CLASSES)}]", f"data.name_pattern='{PATTERN}'",
        f"data.cache_dir={cache}", "trainer=cpu", "trainer.max_epochs=5", "data.batch_size=8", NETWORK,
        "+data.augment={_target_:torchvision.transforms.v2.RandomCrop,size:32,padding:4}", "scheduler=cosine",
        "callbacks=frequent", "callbacks.within_epoch.every_n_train_steps=2", "callbacks.figures=null",
        "callbacks.samples=null", "callbacks.progress=null", "+trainer.enable_progress_bar=false", f"hydra.run.dir={run}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recovery")
    tree = write_tree(folder / "set", folds=1, pictures=5, aug=3)
    process = start(options(tree, "whole"), folder)
    process.join(200)
    assert process.exitcode == 0, (folder / "log.txt").read_text()
    return folder, tree


@pytest.mark.slow
def test_killed_runs_end_like_an_undisturbed_one(undisturbed):
    folder, tree = undisturbed
    rng = random.Random(KILLS)
    killed = dict.fromkeys((*MOMENTS, "at a random time"), 0)
    for number in range(KILLS):
        run = f"run{number}"
        moment = (*MOMENTS, "training_step", "at a random time")[number % (len(MOMENTS) + 2)]
        command = options(tree, run, cache=f"cache{number}" if number % 3 == 0 else "cache")
        if moment == "at a random time":
            process = start(command, folder)
            time.sleep(rng.uniform(0.2, 1.5))
            process.kill()
        else:
            most = {"training_step": 39, "validation_step": 4, "test_step": 0}.get(moment, 25)
            process = start(command, folder, moment, rng.randint(0, most))
        process.join(200)
        killed[moment] += process.exitcode == -signal.SIGKILL
        process = start([*command, "resume=true"], folder)
        process.join(200)
        assert process.exitcode == 0, (moment, (folder / "log.txt").read_text()[-3000:])
        for name in RESULTS:
            assert (folder / run / name).read_bytes() == (folder / "whole" / name).read_bytes(), (
                run,
                moment,
                name,
            )
    print(killed)
    assert all(killed[moment] for moment in MOMENTS), killed


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_broken_last_checkpoint_falls_back_to_the_one_before(undisturbed):
    folder, tree = undisturbed
    command = options(tree, "broken")
    process = start(command, folder, "training_step", 30)
    process.join(200)
    damage(folder / "broken/checkpoints/last.ckpt")
    (folder / "log.txt").unlink()
    process = start([*command, "resume=true"], folder)
    process.join(200)
    log = (folder / "log.txt").read_text()
    assert (
        process.exitcode == 0
        and "Going on from the one before it" in log
        and "cannot be read" in log
    )
    for name in RESULTS:
        assert (folder / "broken" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_both_checkpoints_broken_is_one_clear_message(undisturbed):
    folder, tree = undisturbed
    command = options(tree, "hopeless")
    start(command, folder, "training_step", 30).join(200)
    for name in ("last", "previous"):
        damage(folder / f"hopeless/checkpoints/{name}.ckpt")
    (folder / "log.txt").unlink()
    process = start([*command, "resume=true"], folder)
    process.join(200)
    log = (folder / "log.txt").read_text()
    assert (
        process.exitcode == 1 and "previous.ckpt cannot be read" in log and "Traceback" not in log
    )


def test_a_used_folder_is_not_overwritten(undisturbed):
    folder, tree = undisturbed
    before = {path: path.read_bytes() for path in (folder / "whole").rglob("*") if path.is_file()}
    for more, said in (
        ([], "holds a run already"),
        (["seed=7", "resume=true"], "other options (seed=7)"),
    ):
        (folder / "log.txt").unlink(missing_ok=True)
        process = start([*options(tree, "whole"), *more], folder)
        process.join(200)
        log = (folder / "log.txt").read_text()
        assert (
            process.exitcode == 1
            and said in log
            and "resume=true" in log
            and "Traceback" not in log
        )
    assert all(path.read_bytes() == content for path, content in before.items())


def test_two_processes_do_not_share_a_folder(undisturbed):
    folder, tree = undisturbed
    first = start([*options(tree, "shared"), "trainer.max_epochs=500"], folder)
    while not (folder / "shared/checkpoints/last.ckpt").is_file():
        assert first.is_alive()
        time.sleep(0.02)
    (folder / "log.txt").unlink()
    second = start([*options(tree, "shared"), "trainer.max_epochs=500", "resume=true"], folder)
    second.join(200)
    first.kill()
    first.join(200)
    log = (folder / "log.txt").read_text()
    assert second.exitcode == 1 and "Another process is at work" in log
