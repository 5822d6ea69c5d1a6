"""Stops and deaths: what was committed stays, the record tells what happened, no process is left behind."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from git_gru.train.interrupts import SAME_REQUEST_SECONDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc"),
]
ENDLESS = ("--branch", "endless", "--set", "train.steps=100000", "--set", "train.checkpoint_every=20")


def commits(project: Any) -> list[str]:
    done = project.work.run("git", "rev-list", "--reverse", "main..endless")
    return done.stdout.decode().split() if done.returncode == 0 else []


def wait_for_a_commit(project: Any, run: Any, waiting: Any) -> None:
    waiting(lambda: commits(project) or run.poll() is not None)
    assert run.poll() is None, run.stderr.read().decode()


def only_record(project: Any) -> dict[str, Any]:
    (record,) = json.loads(project.gru("runs", "list", "--json").stdout)["runs"]
    return record


def gone(pids: list[int]) -> bool:
    return not any(
        Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids
    )


def test_ctrl_c_commits_a_last_checkpoint(
    project: Any, waiting: Any, workers: Callable[[int], list[int]]
) -> None:
    run = project.start(*ENDLESS)
    wait_for_a_commit(project, run, waiting)
    pids = workers(run.pid)
    run.send_signal(signal.SIGINT)
    time.sleep(0.1)
    run.send_signal(signal.SIGINT)  # what git does when a Ctrl-C in the terminal has reached us already
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130, err.decode()
    assert "stopping after this step" in err.decode()
    assert "stopped" in out.decode()
    record = only_record(project)
    assert record["state"] == "stopped"
    assert [made["commit"] for made in record["checkpoints"]] == commits(project)
    assert record["checkpoints"][-1]["step"] == record["step"]
    assert len(pids) == 2
    waiting(lambda: gone(pids))


def test_a_second_ctrl_c_ends_at_once_and_commits_stay(
    project: Any, waiting: Any, workers: Callable[[int], list[int]]
) -> None:
    run = project.start(*ENDLESS)
    wait_for_a_commit(project, run, waiting)
    pids = workers(run.pid)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # so that the first request cannot be met
    run.send_signal(signal.SIGINT)
    first = run.stderr.readline() if run.stderr else b""
    while b"stopping" not in first:
        first = run.stderr.readline()  # type: ignore[union-attr]
    time.sleep(SAME_REQUEST_SECONDS)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode == 130
    record = only_record(project)
    assert record["state"] == "stopped"
    assert commits(project)
    waiting(lambda: gone(pids))


def test_a_killed_worker_is_named(project: Any, waiting: Any, workers: Callable[[int], list[int]]) -> None:
    run = project.start(*ENDLESS)
    wait_for_a_commit(project, run, waiting)
    pids = workers(run.pid)
    ranks = {int(rank_of(pid)): pid for pid in pids}
    os.kill(ranks[1], signal.SIGKILL)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 7
    assert re.search(r"run \S+ failed: worker 1: was killed \(SIGKILL\)", err.decode())
    record = only_record(project)
    assert (record["state"], record["failure"]["rank"]) == ("failed", 1)
    assert commits(project)[: len(record["checkpoints"])] == [
        made["commit"] for made in record["checkpoints"]
    ]
    assert record["checkpoints"]
    waiting(lambda: gone(pids))


def rank_of(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return (
        next(variable for variable in variables if variable.startswith(b"RANK="))
        .removeprefix(b"RANK=")
        .decode()
    )


def test_no_orphan_survives_a_killed_launcher(
    project: Any, waiting: Any, workers: Callable[[int], list[int]]
) -> None:
    run = project.start(*ENDLESS)
    wait_for_a_commit(project, run, waiting)
    pids = workers(run.pid)
    assert len(pids) == 2
    run.kill()
    run.communicate(timeout=60)
    waiting(lambda: gone(pids))
    record = only_record(project)
    assert record["state"] == "failed"
    assert "launcher" in record["failure"]["message"]
    assert commits(project)


def test_a_diverging_loss_stops_the_run_before_it_is_committed(project: Any) -> None:
    said = project.refused(
        "train", "--set", "train.lr=1e30", "--set", "train.clip=0", "--set", "train.optimizer=sgd", "--branch", "wild",
        status=8,
    )  # fmt: skip
    assert "lower train.lr" in said
    record = only_record(project)
    assert record["state"] == "failed"
    assert [incident["action"] for incident in record["incidents"]] == ["stop"]


def test_a_scheduler_that_signals_every_process_gets_a_last_checkpoint(
    project: Any, waiting: Any, workers: Callable[[int], list[int]]
) -> None:
    run = project.start(*ENDLESS)
    wait_for_a_commit(project, run, waiting)
    pids = workers(run.pid)
    agent = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (*pids, agent, run.pid):
        os.kill(pid, signal.SIGTERM)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err.decode()
    record = only_record(project)
    assert record["state"] == "stopped"
    assert record["checkpoints"][-1]["step"] == record["step"]
    assert [made["commit"] for made in record["checkpoints"]] == commits(project)
    waiting(lambda: gone([*pids, agent]))


def test_a_branch_moved_by_someone_else_is_left_alone_and_the_run_goes_on_beside(
    project: Any, waiting: Any
) -> None:
    run = project.start(*ENDLESS, "--nproc", "1")
    wait_for_a_commit(project, run, waiting)
    project.git("update-ref", "refs/heads/endless", "main")
    waiting(
        lambda: (
            project.work.run("git", "rev-parse", "-q", "endless-2").returncode == 0 or run.poll() is not None
        )
    )
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err.decode()
    assert "somebody else has moved endless: commits go to endless-2 from here on" in err.decode()
    assert project.git("rev-parse", "endless") == project.git("rev-parse", "main")
    record = only_record(project)
    assert (record["state"], record["branch"]) == ("stopped", "endless-2")
    made = project.git("rev-list", "--reverse", "main..endless-2").split()
    assert [one["commit"] for one in record["checkpoints"]] == made
    assert [one["step"] for one in record["checkpoints"]][:2] == [20, 40]
    removed = project.gru("runs", "rm", "--branch", record["id"])
    assert removed.returncode == 0, "the branch that it took is its own"
