"""Why a run failed: which worker was the cause, and a sentence for it.

When one worker dies, the others lose their connections to it and fail too; the times that PyTorch notes are whole seconds.
So the cause is told by kind: first a worker's own exception, then a worker killed by a signal, then one that lost its
connection, last those that the agent itself ended; among equals the first in time.

The step of a worker's exception stands in a note below its traceback (`step_noted`).
"""

import json
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from git_gru.git.run_folders import log_files
from git_gru.runs.metrics import last_validation, parse_events
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
    "Timed out waiting",
    "DistNetworkError",
    "DistStoreError",
)

LOST_ANOTHER = "lost its connection to another worker"

_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"out of memory|can't allocate memory|Cannot allocate memory|MemoryError|\(SIGKILL\)",
        "Memory ran out, most likely: a smaller train.batch, data.window or model.hidden needs less.",
    ),
    (
        r"No space left on device|Disk quota exceeded",
        "The disk is full: free some space; what was committed stays.",
    ),
    (
        r"EADDRINUSE|[Aa]ddress already in use",
        "Another program has the port, perhaps what is left of an earlier run: end it, or try again (a free port is taken).",
    ),
    (
        r"WeightsError|ArchitectureError|size mismatch|mat1 and mat2 shapes|must match the size of tensor|[Ss]hape mismatch",
        "Shapes do not fit: [model] of the recipe must say what the commit's model is; a new one needs another model.path.",
    ),
    (
        r"FileNotFoundError|No such file or directory",
        "A file is missing: workers see the files of the commit alone. git add and git commit it, or correct [data].",
    ),
    (
        r"ModuleNotFoundError|ImportError",
        "A module is missing: install it into the environment that git-gru runs in.",
    ),
    (
        r"Connection closed by peer|Connection reset by peer|Connection refused|Broken pipe|gloo/transport|NCCL",
        "A worker or its machine was lost: see the logs of the others, and the network between them.",
    ),
)
"""What is looked for in a failure's text, the most telling first, and what it mostly comes from."""

_STEP_NOTE = re.compile(r"^git-gru: in step (\d+)$", re.MULTILINE)


@contextmanager
def step_noted(step: Callable[[], int]) -> Iterator[None]:
    """Writes into an exception which step it came from, for `find_cause`."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"git-gru: in step {step()}")
        raise


def find_cause(job: Job, returncode: int) -> Failure:
    """The failure to report, from what the agent wrote down; `returncode` is the agent's."""
    failures = _told(job)
    if not failures:
        how = _signal_name(-returncode) if returncode < 0 else f"exit status {returncode}"
        failure = Failure(message=f"the agent ended without a word ({how})", log=str(job.agent_log))
        return _completed(job, failure)
    cause = min(failures, key=lambda failure: (_rank_of_blame(failure), failure.get("time", 0)))
    trace = cause["traceback"]
    found = _STEP_NOTE.search(trace or "")
    failure = Failure(
        message=_sentence(cause),
        rank=cause["rank"],
        log=_log_of(job, cause["local_rank"]) if cause["local_rank"] is not None else None,
        step=int(found[1]) if found else None,
        traceback=_STEP_NOTE.sub("", trace).rstrip() if trace else None,
    )
    return _completed(job, failure)


def is_loss(job: Job) -> bool:
    """Whether no worker failed by itself: each was killed, or lost another."""
    return all(failure["rank"] is not None and _rank_of_blame(failure) for failure in _told(job))


def _told(job: Job) -> list[dict[str, Any]]:
    """What the agent wrote down of its workers' ends."""
    try:
        failures: list[dict[str, Any]] = json.loads(job.failures.read_text())
    except (OSError, ValueError):
        return []
    return failures


def _completed(job: Job, failure: Failure) -> Failure:
    """`failure` with the host, the last metrics, and a hint where its text is a known one."""
    events = parse_events(job.events.read_bytes()) if job.events.exists() else []
    metrics = dict(last_validation(events))
    if losses := [event.loss for event in events if event.loss is not None]:
        metrics["loss"] = losses[-1]
    text = f"{failure.message}\n{failure.traceback or ''}"
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, text)), None)
    last = max((event.step for event in events), default=None)
    return replace(
        failure,
        host=socket.gethostname(),
        step=last if failure.step is None else failure.step,
        metrics=metrics,
        hint=failure.hint or hint,
    )


def stall_cause(job: Job, stall: Stall) -> Failure:
    """The failure of a run that was ended because a worker stood still."""
    log = None if stall.local_rank is None else _log_of(job, stall.local_rank)
    hint = "Look at its machine: a stopped process, a disk or network that hangs. guard.stall says how long is too long."
    return _completed(job, Failure(message=str(stall), rank=stall.rank, log=log, step=stall.step, hint=hint))


def collect_logs(job: Job) -> dict[str, bytes]:
    """The ends of all logs that are not empty: `agent.log`, `rank-0.stderr.log`, …"""
    logs = {name: path.read_bytes()[-LOG_BYTES:] for name, path in log_files(job.folder).items()}
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
    if failure["rank"] is None:
        return str(failure["message"])
    if failure["traceback"]:
        trace = _STEP_NOTE.sub("", failure["traceback"])
        if any(lost in trace for lost in _LOST):
            return LOST_ANOTHER
        last = [line for line in trace.splitlines() if line and not line.startswith(" ")][-1:]
        message = str(failure["message"])
        return message.partition(": ")[2] if last and last[0].startswith("git_gru.") else message
    if failure["exitcode"] == -signal.SIGKILL:
        return "was killed (SIGKILL), as the system does when memory runs out"
    if failure["exitcode"] < 0:
        return f"was ended by {_signal_name(-failure['exitcode'])}"
    return f"ended with exit status {failure['exitcode']}"


def _log_of(job: Job, local_rank: int) -> str | None:
    logs = sorted(job.logs.glob(f"*/attempt_*/{local_rank}/stderr.log"))
    return str(logs[-1]) if logs else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
