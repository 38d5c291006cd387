"""Runs that are killed at any moment end like one that was never disturbed, to the bit."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from conftest import CLASSES, PATTERN, write_tree
from killing import MOMENTS, kill_somewhere, start

KILLS = int(os.environ.get("MPOXCV_KILLS", "16"))
RESULTS = ("predictions.csv", "metrics.json", "learning_curves.csv", "baselines.csv")
NETWORK = (
    "classifier.network={_target_:torch.nn.Sequential,_args_:[{_target_:torch.nn.Flatten},"
    "{_target_:torch.nn.Dropout,p:0.3},{_target_:torch.nn.Linear,in_features:3072,out_features:3}]}"
)


# what decides on the rest of a fit by what has been, beside the default's best checkpoint
STOPPING = (
    "{_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:val/f1_macro,mode:max,patience:1}"
)
DECISIONS = {
    "cosine": ["scheduler=cosine"],
    "stopping": ["scheduler=cosine", f"+callbacks.stopping={STOPPING}"],
    "plateau": ["scheduler=plateau", "scheduler.patience=0", "+scheduler.threshold=0.2"],
}


def options(root: Path, run: str, cache: str = "cache", decision: str = "cosine") -> list[str]:
    """A run with everything that a resume could get wrong.

    That is dropout, augmentation, a schedule, and checkpoints within epochs.
    """
    return [
        "fold=1", f"data.root={root}", f"data.classes=[{','.join(CLASSES)}]", f"data.name_pattern='{PATTERN}'",
        f"data.cache_dir={cache}", "trainer=cpu", "trainer.max_epochs=5", "data.batch_size=8", NETWORK,
        "+data.augment={_target_:torchvision.transforms.v2.RandomCrop,size:32,padding:4}", *DECISIONS[decision],
        "callbacks=frequent", "callbacks.within_epoch.every_n_train_steps=2", "callbacks.figures=null",
        "callbacks.samples=null", "callbacks.progress=null", "+trainer.enable_progress_bar=false", f"hydra.run.dir={run}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recovery")
    tree = write_tree(folder / "set", folds=1, pictures=5, aug=3)
    run(options(tree, "whole"), folder)
    return folder, tree


def run(command: list[str], folder: Path, *moment: str | int) -> int | None:
    """Run to the end, or to its death at a moment; return the exit code, 0 where it should live."""
    process = start(command, folder, *moment)
    process.join(200)
    log = (folder / "log.txt").read_text()
    assert process.exitcode == 0 or (moment and process.exitcode == -signal.SIGKILL), log[-3000:]
    return process.exitcode


def assert_same(one: Path, other: Path, *said: object) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), (*said, name)


@pytest.fixture(scope="module")
def decided(undisturbed):
    """The end of an undisturbed run of each way to decide; they are no two alike."""
    folder, tree = undisturbed
    for decision in ("stopping", "plateau"):
        run(options(tree, decision, decision=decision), folder)
    curves = {
        name: pd.read_csv(folder / name / "learning_curves.csv")
        for name in DECISIONS
        if name != "cosine"
    }
    assert len(curves["stopping"]) < 5 and curves["plateau"]["lr"].nunique() > 1
    return folder, tree, {"cosine": "whole", "stopping": "stopping", "plateau": "plateau"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decision", "moment", "count"),
    [
        ("stopping", "test_step", 0),
        # between the checkpoint that the end belongs to, and the end
        ("stopping", "last_write", 0),
        ("plateau", "training_step", 25),
        ("cosine", "training_step", 36),
        ("cosine", "test_step", 0),
    ],
)
def test_what_was_decided_is_kept_wherever_the_folder_lies(decided, decision, moment, count):
    folder, tree, whole = decided
    name = f"{decision}-{moment}"
    assert run(options(tree, name, decision=decision), folder, moment, count)
    shutil.copytree(folder / name, folder / f"{name}-copy")
    # what is at the old place must not matter
    damage(folder / name / "checkpoints/best.ckpt")
    run([*options(tree, f"{name}-copy", decision=decision), "resume=true"], folder)
    assert_same(folder / f"{name}-copy", folder / whole[decision])


@pytest.mark.slow
def test_killed_runs_end_like_an_undisturbed_one(decided):
    folder, tree, whole = decided
    rng = random.Random(KILLS)
    moved = 0
    killed = dict.fromkeys((*MOMENTS, "at a random time"), 0)
    for number in range(KILLS):
        name, decision = f"run{number}", list(DECISIONS)[number % 3]
        moment = (*MOMENTS, "training_step", "at a random time")[number % (len(MOMENTS) + 2)]
        cache = f"cache{number}" if number % 4 == 0 else "cache"
        command = options(tree, name, cache, decision)
        most = {"training_step": 39, "validation_step": 4, "test_step": 0}
        code = kill_somewhere(command, folder, moment, rng, (0.2, 1.5), most, 25, 200)
        killed[moment] += code == -signal.SIGKILL
        if rng.random() < 0.5 and (folder / name).is_dir():
            (folder / name).rename(folder / f"{name}-moved")
            name = f"{name}-moved"
            moved += 1
        run([*options(tree, name, cache, decision), "resume=true"], folder)
        assert_same(folder / name, folder / whole[decision], name, moment)
    print(killed, f"moved: {moved}")
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
        (["seed=7", "resume=true"], "other options:\n  seed: 42 then, 7 now"),
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
