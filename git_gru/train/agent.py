"""The agent's process: `python -m git_gru.train.agent JOB THREADS PARENT`, a child of the launcher.

It is `torch.distributed.run` (PyTorch's elastic agent) with what facts about it ask for set before torch is imported, and
with its account of failed workers written where the launcher finds it. In a process of its own, so that the CLI never
imports torch, and so that a Ctrl-C in the terminal does not reach the workers.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from git_gru.train.job import Job
from git_gru.train.processes import die_with_parent

AGENT_VARIABLE = "GIT_GRU_AGENT"
"""Tells a worker the agent's process id."""


def main() -> int:
    """Runs the job's workers; 0 when all of them ended well."""
    job_file, threads, parent = sys.argv[1:]
    die_with_parent(int(parent), signal.SIGINT)
    signal.signal(
        signal.SIGTERM, lambda number, frame: None
    )  # a scheduler's, of all processes: the launcher sees to it
    job = Job.read(Path(job_file))
    os.environ.update(_variables(threads))
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        arguments = run.parse_args(_arguments(job, job_file))  # type: ignore[no-untyped-call]
        if hasattr(
            arguments, "signals_to_handle"
        ):  # older versions of torch end at SIGTERM, whatever was set before
            arguments.signals_to_handle = "SIGINT"
        run.run(arguments)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        failures = [_told(rank, failure) for rank, failure in sorted(error.failures.items())]
        job.failures.write_text(json.dumps(failures, indent=1))
        return 1
    return 0


def _arguments(job: Job, job_file: str) -> list[str]:
    """For `torch.distributed.run`: one machine, a free port of its own, no restarts, everything printed into files."""
    return [
        "--nnodes=1",
        f"--nproc-per-node={job.recipe.launch.nproc}",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
        f"--rdzv-id={job.run}",
        "--local-addr=127.0.0.1",  # by default the host's name, which need not resolve
        "--max-restarts=0",
        f"--log-dir={job.logs}",
        "--redirects=3",
        "--module",
        "git_gru.train.worker",
        job_file,
    ]


def _variables(threads: str) -> dict[str, str]:
    variables = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # shared, gloo reads stale addresses after a restart
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what deterministic matrix products need on a GPU
        "PYTHONSAFEPATH": "1",  # workers import nothing from the folder they happen to stand in
        AGENT_VARIABLE: str(os.getpid()),
    }
    loopback = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}
    if loopback and "GLOO_SOCKET_IFNAME" not in os.environ:
        variables["GLOO_SOCKET_IFNAME"] = loopback.pop()
    return variables


def _told(rank: int, failure: Any) -> dict[str, Any]:
    """What `torch.distributed.run` knows of a failed worker, as plain values."""
    message, trace = failure.message, None
    if isinstance(message, dict):
        trace = message.get("extraInfo", {}).get("py_callstack")
        message = message.get("message", "")
    return {
        "rank": rank,
        "exitcode": failure.exitcode,
        "message": str(message),
        "traceback": trace,
        "time": failure.timestamp,
    }


if __name__ == "__main__":
    sys.exit(main())
