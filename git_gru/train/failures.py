"""Why a run failed: which worker was the cause, and a sentence for it.

When one worker dies, the others lose their connections to it and fail too; the times that PyTorch notes are whole seconds.
So the cause is told by kind: first a worker's own exception, then a worker killed by a signal, then one that lost its
connection, last those that the agent itself ended.
"""

import json
import signal
import socket
from typing import Any

from git_gru.runs.record import Failure
from git_gru.train.heartbeat import Stall
from git_gru.train.job import Job

LOG_BYTES = 256 << 10
"""The end of a log that is kept in the run's record."""

_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "gloo/transport",
)


def find_cause(job: Job, returncode: int) -> Failure:
    """The failure to report, from what the agent wrote down; `returncode` is the agent's."""
    try:
        failures: list[dict[str, Any]] = json.loads(job.failures.read_text())
    except (OSError, ValueError):
        failures = []
    host = socket.gethostname()
    if not failures:
        how = _signal_name(-returncode) if returncode < 0 else f"exit status {returncode}"
        return Failure(message=f"the agent ended without a word ({how})", host=host, log=str(job.agent_log))
    cause = min(failures, key=_rank_of_blame)
    return Failure(message=_sentence(cause), rank=cause["rank"], host=host, log=_log_of(job, cause["rank"]))


def stall_cause(job: Job, stall: Stall) -> Failure:
    """The failure of a run that was ended because a worker stood still."""
    log = None if stall.rank is None else _log_of(job, stall.rank)
    return Failure(message=str(stall), rank=stall.rank, host=socket.gethostname(), log=log)


def collect_logs(job: Job) -> dict[str, bytes]:
    """The ends of all logs that are not empty: `agent.log`, `rank-0.stderr.log`, …"""
    found = {"agent.log": job.agent_log} if job.agent_log.exists() else {}
    for path in sorted(job.logs.glob("*/attempt_*/*/*.log")):
        found[f"rank-{path.parent.name}.{path.name}"] = path
    logs = {name: path.read_bytes()[-LOG_BYTES:] for name, path in found.items()}
    return {name: data for name, data in logs.items() if data}


def _rank_of_blame(failure: dict[str, Any]) -> int:
    text = f"{failure['message']}{failure['traceback'] or ''}"
    if failure["traceback"]:
        return 2 if any(lost in text for lost in _LOST) else 0
    if failure["exitcode"] == -signal.SIGTERM:
        return 3
    return 1


def _sentence(failure: dict[str, Any]) -> str:
    """What happened to a worker. Our own errors are sentences already; others keep the exception's name."""
    if failure["traceback"]:
        last = [line for line in failure["traceback"].splitlines() if line and not line.startswith(" ")][-1:]
        message = str(failure["message"])
        return message.partition(": ")[2] if last and last[0].startswith("git_gru.") else message
    if failure["exitcode"] == -signal.SIGKILL:
        return (
            "was killed (SIGKILL); the system does so when memory runs out: a smaller train.batch needs less"
        )
    if failure["exitcode"] < 0:
        return f"was ended by {_signal_name(-failure['exitcode'])}"
    return f"ended with exit status {failure['exitcode']}"


def _log_of(job: Job, rank: int) -> str | None:
    logs = sorted(job.logs.glob(f"*/attempt_*/{rank}/stderr.log"))
    return str(logs[-1]) if logs else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
