"""What the machine does to a command: schedulers, signals, streams, loggers, disks, packages."""

import errno
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
from lightning.pytorch import loggers
from lightning.pytorch.callbacks import ProgressBar
from test_bad_input import assert_refused
from test_sweep import TRAIN, break_picture, options, summary_of

from conftest import write_tree
from killing import start
from mpoxcv.training import loggers as our_loggers

SLURM = {
    "SLURM_NTASKS": "1",
    "SLURM_JOB_NAME": "x",
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


def run_options(tree: Path, folder: str, epochs: int = 2) -> list[str]:
    return [
        *(option for option in options(tree, tree, epochs) if "sweep" not in option),
        "callbacks.baselines=null",
        f"hydra.run.dir={folder}",
    ]


def of(folder: Path, name: str = "predictions.csv") -> bytes:
    return (folder / name).read_bytes()


# schedulers and signals


def test_a_run_does_not_begin_with_what_lies_in_the_working_folder(
    run_script, tree, tmp_path, monkeypatch
):
    assert run_script("train", "fold=2", *run_options(tree, "clean")).code == 0
    assert run_script("train", "fold=1", *run_options(tree, "one", 1)).code == 0
    shutil.copy(tmp_path / "one/checkpoints/last.ckpt", tmp_path / "hpc_ckpt_1.ckpt")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    done = run_script("train", "fold=2", *run_options(tree, "slurm"))
    assert done.code == 0, done.err
    assert of(tmp_path / "clean") == of(tmp_path / "slurm")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two epochs that nothing disturbs, its data, and the folder of both."""
    folder = tmp_path_factory.mktemp("whole")
    tree = write_tree(folder / "set")
    start(["fold=1", *run_options(tree, "whole")], folder).join(100)
    return folder / "whole", tree, folder


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("SIGTERM", "training_step"),
        ("SIGUSR2", "test_step"),
        pytest.param("SIGUSR1", "training_step", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_run_that_then_goes_on_to_the_same_bytes(whole, tmp_path, name, moment):
    undisturbed, tree, folder = whole
    command = ["fold=1", *run_options(tree, "run"), f"data.cache_dir={folder / 'data/cache'}"]
    count = 1 if moment == "training_step" else 0
    process = start(command, tmp_path, moment, count, getattr(signal, name), **SLURM)
    process.join(100)
    assert process.exitcode == 1 and f"Stopped by {name}" in (tmp_path / "log.txt").read_text()
    assert json.loads(of(tmp_path / "run", "provenance.json"))["status"] == "interrupted"
    start([*command, "resume=true"], tmp_path, **SLURM).join(100)
    assert of(undisturbed) == of(tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "log.txt"}


@pytest.mark.slow
def test_a_signal_to_a_multirun_costs_the_next_folds_nothing(tree, tmp_path):
    whole = ["-m", "fold=1,2", *options(tree, tmp_path / "whole", 2)]
    start(whole, tmp_path).join(100)
    command = ["-m", "fold=1,2", *options(tree, tmp_path / "s", 2)]
    start(command, tmp_path, "training_step", 1, signal.SIGUSR1, **SLURM).join(100)
    log = (tmp_path / "log.txt").read_text()
    assert "Stopped by SIGUSR1" in log and "Go on with" in log
    start([*command, "resume=true"], tmp_path, **SLURM).join(100)
    for name in ("summary/predictions.csv", "fold=2/predictions.csv"):
        assert of(tmp_path / "s", name) == of(tmp_path / "whole", name)
    assert not list(tmp_path.rglob("hpc_ckpt*"))


def test_several_tasks_on_one_device(run_script, tree, monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    done = run_script("train", *run_options(tree, "run"))
    assert_refused(done, "4 tasks", "--ntasks=1", "trainer=ddp")


# loggers and bars


class FailingLogger(loggers.CSVLogger):
    def __init__(self, save_dir):
        super().__init__(save_dir)

    def fail(self, *arguments, **named):
        raise RuntimeError("the server is gone\nat all")

    log_metrics = log_hyperparams = save = finalize = after_save_checkpoint = fail


class UnopenedLogger(FailingLogger):
    @property
    def experiment(self):
        self.fail()


class FailingBar(ProgressBar):
    def __init__(self, refresh_rate=4):
        super().__init__()

    def fail(self, *arguments, **named):
        raise RuntimeError("no terminal")

    on_train_start = on_train_batch_end = on_validation_start = on_test_end = fail


def test_side_effects_that_fail_end_no_training(run_script, tree, tmp_path, monkeypatch):
    monkeypatch.setattr(our_loggers, "PAUSES", (0.0, 0.0))
    plain = [*run_options(tree, "plain"), "callbacks.progress=null"]
    assert run_script("train", *plain).code == 0
    given = [o for o in run_options(tree, "run") if "progress" not in o]
    target = "{{_target_: test_process.{}, save_dir: own}}"
    failing = [
        f"+logger.one={target.format('FailingLogger')}",
        f"+logger.two={target.format('UnopenedLogger')}",
        "callbacks.progress=null",
        "+callbacks.bar={_target_: test_process.FailingBar}",
    ]
    done = run_script("train", *given, *failing)
    assert done.code == 0, done.err
    for name in ("FailingLogger", "UnopenedLogger", "FailingBar"):
        assert done.err.count(f"{name} failed") == 1
    assert done.err.count("RuntimeError: ") == 3
    assert of(tmp_path / "run") == of(tmp_path / "plain")


def test_a_logger_is_opened_again(run_script, tree, tmp_path, monkeypatch):
    left = [2]

    def opened(self):
        left[0] -= 1
        if left[0] >= 0:
            raise RuntimeError("table experiments already exists")
        return loggers.CSVLogger.experiment.fget(self)

    monkeypatch.setattr(UnopenedLogger, "experiment", property(opened))
    monkeypatch.setattr(UnopenedLogger, "log_metrics", loggers.CSVLogger.log_metrics)
    monkeypatch.setattr(UnopenedLogger, "save", loggers.CSVLogger.save)
    monkeypatch.setattr(our_loggers, "PAUSES", (0.0, 0.0))
    logger = "+logger.own={_target_: test_process.UnopenedLogger, save_dir: own}"
    done = run_script("train", *run_options(tree, "run"), logger)
    assert done.code == 0 and list((tmp_path / "own").rglob("metrics.csv")), done.err


@pytest.mark.parametrize("option", ["logger.csv.nonsense=1", "logger.csv._target_=no.Such"])
def test_a_wrong_option_of_a_logger_is_refused(run_script, tree, option):
    done = run_script("train", "logger=csv", *run_options(tree, "run"), f"+{option}")
    assert_refused(done, option.rpartition("=")[0 if "nonsense" in option else 2].split(".")[-1])


@pytest.fixture
def wandb(monkeypatch):
    """Stand in for W&B, as Lightning's logger sees it: one run is open in a process, or none."""
    module = types.ModuleType("wandb")
    module.run, module.runs = None, []

    class Run:
        def __init__(self, **given):
            self.given, self.ended, self.logged = given, None, []
            self.config = types.SimpleNamespace(update=lambda *a, **k: None)

        def log(self, metrics, *a, **k):
            assert self.ended is None
            self.logged.append(metrics)

        def finish(self, exit_code=0):
            self.ended, module.run = exit_code, None

        def define_metric(self, *a, **k):
            pass

    def init(**given):
        assert module.run is None
        module.run = Run(**given)
        module.runs.append(module.run)
        return module.run

    module.init = init
    lib, runs = types.ModuleType("wandb.sdk.lib"), types.ModuleType("wandb.wandb_run")
    lib.RunDisabled, runs.Run = type("RunDisabled", (), {}), Run
    sdk = types.ModuleType("wandb.sdk")
    for name, fake in {"wandb": module, "wandb.sdk": sdk, "wandb.sdk.lib": lib}.items():
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setitem(sys.modules, "wandb.wandb_run", runs)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    return module


@pytest.mark.parametrize("launcher", ["basic", pytest.param("lockstep", marks=pytest.mark.slow)])
def test_each_fold_has_a_wandb_run_of_its_own_which_ends_with_it(
    run_script, tree, tmp_path, wandb, launcher
):
    command = ["-m", "fold=1,2", "logger=wandb", "logger.wandb.offline=true"]
    given = [*options(tree, tmp_path / "s"), "callbacks.baselines=null"]
    done = run_script("train", *command, f"hydra/launcher={launcher}", *given)
    assert done.code == 0, done.err
    assert [run.given["name"] for run in wandb.runs] == ["lenet-fold1-seed42", "lenet-fold2-seed42"]
    assert [run.ended for run in wandb.runs] == [0, 0] and all(run.logged for run in wandb.runs)


@pytest.mark.slow
def test_a_wandb_run_ends_with_a_fold_that_fails(run_script, tree, tmp_path, wandb):
    break_picture(tree)
    given = [*options(tree, tmp_path / "s"), "callbacks.baselines=null"]
    command = ["-m", "fold=2,1", "logger=wandb", *given]
    assert run_script("train", *command).code == 1
    assert [run.ended for run in wandb.runs] == [1, 0]


# packages


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_a_logger_whose_package_is_not_installed(run_script, tree, package):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    done = run_script("train", f"logger={package}", *run_options(tree, "run"))
    assert_refused(done, f'pip install "mpoxcv[{package}]"')


def test_optuna_is_not_installed(run_script, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert_refused(run_script("search"), 'pip install "mpoxcv[search]"')


@pytest.mark.slow
def test_no_compiler(tree, tmp_path):
    environment = os.environ | {
        "CXX": "/nowhere/g++", "PATH": "/nowhere", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "torch"),
    }  # fmt: skip
    command = [*TRAIN, *run_options(tree, "run"), "classifier.compile=true"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "The network cannot be compiled here" in done.stderr and done.returncode == 1
    assert "g++" in done.stderr and "Traceback" not in done.stderr


# streams


@pytest.mark.slow
def test_neither_streams_nor_a_notebooks_variables_end_a_multirun(tree, tmp_path):
    environment = os.environ | {
        "PYTHONIOENCODING": "ascii", "MPLBACKEND": "module://not_installed", "COLUMNS": "60",
    }  # fmt: skip
    command = [*TRAIN, "-m", "fold=1,2", *options(tree, tmp_path / "s")]
    command = [option for option in command if "progress" not in option]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read().decode()
    assert process.returncode == 0 and summary_of(tmp_path / "s")["complete"], err
    assert err.count("takes no more (Broken pipe)") == 1 and "Traceback" not in err
    # the whole of it in other encodings, and on a full disk
    command = [sys.executable, TRAIN[1].replace("train", "summarize"), f"runs={tmp_path / 's'}"]
    for encoding in ("latin-1", "gbk", "cp932", "ascii"):
        done = subprocess.run(
            [*command, f"output={tmp_path / encoding}", "folds=2"],
            env=environment | {"PYTHONIOENCODING": encoding},
            capture_output=True,
        )
        assert done.returncode == 0 and b"report.html" in done.stdout, done.stderr
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, "folds=2"], env=environment, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 0 and b"takes no more (No space left" in done.stderr


# disks


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_a_disk_without_locks(run_script, tree, tmp_path, monkeypatch, number, multirun):
    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    where = options(tree, tmp_path / "run")
    given = where if multirun else run_options(tree, "run")
    monkeypatch.setattr(fcntl, "flock", flock)
    done = run_script("train", *multirun, "fold=1", *given)
    option = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    assert done.code == 1 and "Traceback" not in done.err, done.err
    assert os.strerror(number) in done.err and "No lock" in done.err and option in done.err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_cache_without_locks(run_script, tree, tmp_path, monkeypatch):
    flock = fcntl.flock

    def refuse(descriptor, how):
        if "cache" in Path(f"/proc/self/fd/{descriptor}").readlink().parts:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", refuse)
    done = run_script("train", *run_options(tree, "run"))
    assert_refused(done, "data.cache_dir", "No lock")
    assert json.loads(of(tmp_path / "run", "job.json"))["status"] == "failed"


GONE = "/proc/gone"


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train", f"data.cache_dir={GONE}/a"),
        ("train", f"hydra.run.dir={GONE}"),
        ("train -m fold=1,2", f"hydra.sweep.dir={GONE}/a"),
        ("train data=synthetic", f"data.root={GONE}"),
        ("train protocol=grouped", f"data.split_file={GONE}/folds.csv"),
        ("get_data data=synthetic", f"data.root={GONE}"),
        (
            "make_folds data=custom source=set/FOLDS/fold1/Train copies=0 n_folds=3",
            f"output={GONE}",
        ),
    ],
)
def test_where_nothing_can_be_written_the_option_that_led_there_is_named(
    run_script, tree, option, command
):
    script, *given = command.split()
    if script == "train" and "synthetic" not in command:
        given += [o for o in run_options(tree, "run") if "run.dir" not in o]
    elif script == "train":
        given += ["trainer=cpu"]
    done = run_script(script, *given, option)
    assert_refused(done, GONE, option.partition("=")[0])
