"""The agent's process: `python -m git_gru.train.agent JOB THREADS PARENT [LISTENER]`, a child of the launcher.

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

from git_gru.errors import GruError
from git_gru.train.job import Job
from git_gru.train.nodes import LOOPBACK, JoinError, interface_of
from git_gru.train.processes import collector_off, die_with_parent

AGENT_VARIABLE = "GIT_GRU_AGENT"
"""Tells a worker the agent's process id."""


def main() -> int:
    """Runs the job's workers; 0 when all of them ended well."""
    job_file, threads, parent, *listener = sys.argv[1:]
    die_with_parent(int(parent), signal.SIGINT)
    signal.signal(
        signal.SIGTERM, lambda number, frame: None
    )  # a scheduler's, of all processes: the launcher sees to it
    job = Job.read(Path(job_file))
    os.environ.update(variables_of(job, threads))
    with collector_off():
        from torch.distributed import run
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

        from git_gru.train import rendezvous

    descriptor = int(listener[0]) if listener else None
    rendezvous.register(job.generation, descriptor, job.recipe.launch.join_timeout)
    try:
        arguments = run.parse_args(_arguments(job, job_file, rendezvous.BACKEND))  # type: ignore[no-untyped-call]
        if hasattr(
            arguments, "signals_to_handle"
        ):  # older versions of torch end at SIGTERM, whatever was set before
            arguments.signals_to_handle = "SIGINT"
        run.run(arguments)  # type: ignore[no-untyped-call]
    except JoinError as error:
        job.failures.write_text(json.dumps([_not_joined(error)], indent=1))
        return 1
    except ChildFailedError as error:
        failures = [_told(rank, failure) for rank, failure in sorted(error.failures.items())]
        job.failures.write_text(json.dumps(failures, indent=1))
        return 1
    return 0


def _arguments(job: Job, job_file: str, backend: str) -> list[str]:
    """For `torch.distributed.run`: no restarts, everything printed into files."""
    return [
        f"--nnodes={job.generation.count if job.generation else 1}",
        f"--nproc-per-node={job.recipe.launch.nproc}",
        f"--rdzv-backend={backend}",
        f"--rdzv-id={job.run}-{job.generation.index if job.generation else 1:06}",  # logs are named by it
        f"--local-addr={job.generation.address if job.generation else LOOPBACK}",  # else the host's name, which need not resolve
        "--max-restarts=0",
        f"--log-dir={job.logs}",
        "--redirects=3",
        "--module",
        "git_gru.train.worker",
        job_file,
    ]


def variables_of(job: Job, threads: str) -> dict[str, str]:
    """What the environment of a job's workers is changed to; what the user has set of it for gloo and NCCL stays."""
    variables = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what deterministic matrix products need on a GPU
        "PYTHONSAFEPATH": "1",  # workers import nothing from the folder they happen to stand in
        AGENT_VARIABLE: str(os.getpid()),
    }
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    interface = interface_of(job.generation.address) if job.generation is not None else loopback
    if "TORCH_CPP_LOG_LEVEL" not in os.environ:
        variables["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # it warns of every address without a name
    if interface is not None:  # NCCL takes a name for a prefix, unless it stands behind "="
        named = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}
        variables |= {name: value for name, value in named.items() if name not in os.environ}
    return variables


def _not_joined(error: GruError) -> dict[str, Any]:
    """As `_told`, for a run of which no worker was started."""
    message = f"{error}. {error.hint}" if error.hint else str(error)
    return {"rank": None, "local_rank": None, "exitcode": 1, "message": message, "traceback": None, "time": 0}


def _told(rank: int, failure: Any) -> dict[str, Any]:
    """What `torch.distributed.run` knows of a failed worker, as plain values."""
    message, trace = failure.message, None
    if isinstance(message, dict):
        trace = message.get("extraInfo", {}).get("py_callstack")
        message = message.get("message", "")
    return {
        "rank": rank,
        "local_rank": failure.local_rank,
        "exitcode": failure.exitcode,
        "message": str(message),
        "traceback": trace,
        "time": failure.timestamp,
    }


if __name__ == "__main__":
    sys.exit(main())
