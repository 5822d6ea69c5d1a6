"""Who is to blame when several workers fail, and how it is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from git_gru.train.failures import LOG_BYTES, collect_logs, find_cause
from git_gru.train.job import Job
from git_gru.train.recipe import recipe_of

LOST = {
    "rank": 0, "exitcode": 1, "message": "RuntimeError: Connection closed by peer",
    "traceback": "Traceback\n  in all_reduce\nRuntimeError: Connection closed by peer\n",
}  # fmt: skip
KILLED = {"rank": 1, "exitcode": -9, "message": "Signal 9 (SIGKILL) received by PID 5", "traceback": None}
TERMINATED = {"rank": 2, "exitcode": -15, "message": "Signal 15", "traceback": None}
RAISED = {
    "rank": 3, "exitcode": 1, "message": "ZeroDivisionError: division by zero",
    "traceback": "Traceback\n  here\nZeroDivisionError: division by zero\n",
}  # fmt: skip
OURS = {
    "rank": 4, "exitcode": 1, "message": "DivergedError: the loss is nan",
    "traceback": "Traceback\n  there\ngit_gru.train.engine.DivergedError: the loss is nan\n",
}  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> Job:
    recipe = recipe_of({"data": {"files": "*"}})
    return Job(
        run="r", folder=tmp_path, repository=tmp_path, source="a" * 40, ref="refs/heads/x", parent_model=None,
        recipe=recipe, architecture={"kind": "gru", "task": "language-model"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("failures", "rank", "message"),
    [
        ([LOST, KILLED], 1, "was killed (SIGKILL)"),
        ([LOST, TERMINATED], 0, "RuntimeError: Connection closed by peer"),
        ([LOST, KILLED, TERMINATED, RAISED], 3, "ZeroDivisionError: division by zero"),
        ([OURS, LOST], 4, "the loss is nan"),
        ([TERMINATED], 2, "was ended by SIGTERM"),
        ([{**TERMINATED, "exitcode": 3}], 2, "ended with exit status 3"),
    ],
)
def test_the_cause_is_told_by_kind(job: Job, failures: list[dict[str, Any]], rank: int, message: str) -> None:
    job.failures.write_text(json.dumps(failures))
    cause = find_cause(job, 1)
    assert cause.rank == rank
    assert cause.message.startswith(message)


def test_an_agent_that_says_nothing(job: Job) -> None:
    assert find_cause(job, -11).message == "the agent ended without a word (SIGSEGV)"
    assert find_cause(job, 1).message == "the agent ended without a word (exit status 1)"


def test_logs_are_found_cut_and_named_by_rank(job: Job) -> None:
    folder = job.logs / "r_abc" / "attempt_0" / "1"
    folder.mkdir(parents=True)
    (folder / "stderr.log").write_bytes(b"x" * LOG_BYTES + b"end")
    (folder / "stdout.log").write_bytes(b"")
    logs = collect_logs(job)
    assert list(logs) == ["rank-1.stderr.log"]
    assert len(logs["rank-1.stderr.log"]) == LOG_BYTES
    assert logs["rank-1.stderr.log"].endswith(b"xend")
    job.failures.write_text(json.dumps([KILLED]))
    assert find_cause(job, 1).log == str(folder / "stderr.log")


def test_a_job_comes_back_as_it_was(job: Job) -> None:
    assert Job.read(job.write()) == job
