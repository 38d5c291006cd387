"""A multirun as Slurm jobs, on a real Slurm of one node that the test starts and stops."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_sweep import break_picture, options, start, summary_of

from conftest import write_tree

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("slurmctld") or os.geteuid() != 0,
        reason="needs Debian's slurm-wlm, and root",
    ),
]

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
ReturnToService=2
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

# This cluster keeps no accounts: what submitit asks sacct is answered from scontrol.
SACCT = """#!{python}
import subprocess, sys
print("JobID|State|NodeList")
for job in [b for a, b in zip(sys.argv, sys.argv[1:]) if a == "-j"]:
    shown = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True).stdout
    for line in shown.splitlines():
        said = dict(word.split("=", 1) for word in line.split() if "=" in word)
        name, task = said["JobId"], said.get("ArrayTaskId")
        if task:
            name = said["ArrayJobId"] + "_" + (task if task.isdigit() else "[" + task + "]")
        print(name, said["JobState"], said.get("NodeList", ""), sep="|")
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Put a running Slurm into the environment."""
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().partition(".")[0]
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    for parent in (
        folder,
        *folder.parents,
    ):  # munge refuses sockets in folders that others can't enter
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    (folder / "bin/sacct").write_text(SACCT.format(python=sys.executable))
    (folder / "bin/sacct").chmod(0o755)
    sockets = [socket.socket() for _ in range(2)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    (folder / "slurm.conf").write_text(
        CONFIG.format(folder=folder, host=host, ports=ports, cores=os.cpu_count())
    )
    patch = pytest.MonkeyPatch()
    patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    patch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    files = {
        name: f"--{name}-file={folder}/munge.{name.partition('-')[0]}"
        for name in ("key", "pid", "log", "seed")
    }
    try:
        subprocess.run(
            ["munged", "--force", f"--socket={folder}/munge.socket", *files.values()], check=True
        )
        subprocess.run(["slurmctld", "-c"], check=True)
        subprocess.run(["slurmd"], check=True)
        for _ in range(60):
            state = subprocess.run(
                ["sinfo", "-h", "-o", "%t"], capture_output=True, text=True
            ).stdout.strip()
            if state == "idle":
                break
            time.sleep(0.5)
        assert state == "idle", (folder / "slurmctld.log").read_text()
        yield folder
    finally:
        for name in ("slurmd", "slurmctld", "munge"):
            if (pid := folder / f"{name}.pid").is_file():
                subprocess.run(["kill", pid.read_text().strip()])
        patch.undo()


LAUNCHER = [
    "hydra/launcher=slurm_cpu",
    "hydra.launcher.partition=main",
    "hydra.launcher.cpus_per_task=1",
]
LAUNCHER += ["hydra.launcher.mem_gb=1"]


def test_slurm_gives_the_summary_of_the_basic_launcher_and_names_a_failing_fold(slurm, tmp_path):
    tree = write_tree(tmp_path / "set")
    for name, launcher in (("basic", []), ("slurm", LAUNCHER)):
        process = start(["-m", "fold=1,2", *launcher, *options(tree, tmp_path / name)], tmp_path)
        err = process.communicate(timeout=300)[1]
        assert process.returncode == 0, err.decode()
    for name in ("predictions.csv", "tables/results.csv", "tables/per_class.csv"):
        assert (tmp_path / "slurm/summary" / name).read_bytes() == (
            tmp_path / "basic/summary" / name
        ).read_bytes()

    picture = break_picture(tree)
    process = start(["-m", "fold=1,2", *LAUNCHER, *options(tree, tmp_path / "broken")], tmp_path)
    process.communicate(timeout=300)
    (problem,) = summary_of(tmp_path / "broken")["problems"]
    assert process.returncode == 1 and problem["fold"] == 2 and picture.name in problem["cause"]


def test_a_slurm_job_that_is_cancelled_goes_on(slurm, tmp_path):
    tree = write_tree(tmp_path / "set", pictures=12, aug=8)
    assert (
        start(["-m", "fold=1,2", *options(tree, tmp_path / "basic", epochs=60)], tmp_path).wait(300)
        == 0
    )
    sweep = tmp_path / "s"
    command = ["-m", "fold=2,1", *LAUNCHER, *options(tree, sweep, epochs=60)]
    process = start(command, tmp_path)
    while not (sweep / "fold=2/checkpoints/last.ckpt").is_file():
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(json.loads((sweep / "fold=2/job.json").read_text())["pid"], signal.SIGKILL)
    process.communicate(timeout=300)
    (problem,) = summary_of(sweep)["problems"]
    assert process.returncode == 1 and problem["fold"] == 2 and "killed" in problem["cause"]
    assert start([*command, "resume=true"], tmp_path).wait(300) == 0
    for name in ("predictions.csv", "tables/results.csv"):
        assert (sweep / "summary" / name).read_bytes() == (
            tmp_path / "basic/summary" / name
        ).read_bytes()


def test_ctrl_c_leaves_slurm_jobs_at_work(slurm, tmp_path):
    tree = write_tree(tmp_path / "set", pictures=12, aug=8)
    sweep = tmp_path / "s"
    process = start(["-m", "fold=1,2", *LAUNCHER, *options(tree, sweep, epochs=200)], tmp_path)
    while not (sweep / "fold=1/checkpoints/last.ckpt").is_file():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=100)[1].decode()
    assert process.returncode == 1 and "hydra/launcher=slurm_cpu" in err
    for _ in range(1200):
        if summary_of(sweep)["complete"]:
            break
        time.sleep(0.1)
    assert summary_of(sweep)["complete"]
