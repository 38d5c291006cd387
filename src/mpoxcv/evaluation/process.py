"""Which process a run belongs to, and whether it still lives."""

import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def whoami() -> dict[str, Any]:
    """Return host, process number and the time, for job.json."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def why_unfinished(job: Mapping[str, Any]) -> str:
    """Return what is known of a job that began and has not ended, from its job.json."""
    if job.get("status") == "completed":
        return "it ended without a test (trainer.limit_test_batches=0?)"
    pid = job.get("pid")
    if not isinstance(pid, int) or not 0 < pid < 2**31 or not {"host", "since"} <= job.keys():
        return "it began, and never ended: killed, interrupted, or still at work"

    where = f"process {pid} on {job['host']}"
    # on Windows signal 0 is Ctrl-C
    if job["host"] != socket.gethostname() or os.name == "nt":
        return f"it began at {job['since']}, {where}, and has not ended: at work, or killed"
    # a process has one job at a time, and this one sums up
    if pid == os.getpid():
        return "it was interrupted"

    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return f"its {where} is gone: killed, or the machine went down"
    except PermissionError:
        # another user's: it lives
        pass
    return f"it is at work since {job['since']}, {where}"
