"""Runs from outside: what is not running is not stopped, what is removed is gone, and nothing else."""

import os
import socket
from dataclasses import replace
from typing import Any

import pytest

from git_gru.errors import InputError
from git_gru.git.run_control import (
    NotRunningError,
    StillRunningError,
    follow_logs,
    read_logs,
    remove_run,
    request_stop,
    sweep_runs,
)
from git_gru.git.run_folders import LAUNCHER, STOP, hold, run_folder
from git_gru.git.run_refs import run_ids, source_ref, write_record
from git_gru.git.run_states import resume_ref
from git_gru.runs.record import RunRecord, RunState


@pytest.fixture
def record(repo: Any) -> RunRecord:
    repo.write("notes.txt", b"x")
    source = repo.commit("source")
    made = RunRecord(
        id="r",
        state=RunState.RUNNING,
        started=1.0,
        source=source,
        branch="gru/r",
        model="model.safetensors",
        recipe_path="gru.toml",
        recipe={},
        nproc=1,
        seed=0,
        steps=4,
        host=socket.gethostname(),
        pid=os.getpid(),
    )
    write_record(repo.repository, made, b"", {"agent.log": b"kept\n"})
    return made


def test_stop_asks_a_run_that_is_at_work_here(repo: Any, record: RunRecord) -> None:
    folder = run_folder(repo.repository, "r")
    with hold(folder, LAUNCHER):
        request_stop(repo.repository, "r")
    assert (folder / STOP).exists()


def test_others_are_not_stopped(repo: Any, record: RunRecord) -> None:
    with pytest.raises(NotRunningError, match="no launcher"):
        request_stop(repo.repository, "r")
    write_record(repo.repository, replace(record, host="elsewhere"), b"", {})
    with pytest.raises(NotRunningError, match="runs on elsewhere"):
        request_stop(repo.repository, "r")
    write_record(repo.repository, replace(record, state=RunState.STOPPED), b"", {})
    with pytest.raises(NotRunningError, match="it is stopped"):
        request_stop(repo.repository, "r")


def test_a_run_is_removed_with_all_its_refs(repo: Any, record: RunRecord) -> None:
    with pytest.raises(StillRunningError, match="the run r is running"):
        remove_run(repo.repository, "r")
    write_record(repo.repository, replace(record, state=RunState.FAILED), b"", {})
    for ref in (source_ref("r"), resume_ref("r"), "refs/heads/gru/r", "refs/gru/runs/r2/record"):
        repo.git("update-ref", ref, record.source)
    run_folder(repo.repository, "r").mkdir(parents=True, exist_ok=True)
    with pytest.raises(InputError, match="not of the run r: it is left alone"):
        remove_run(repo.repository, "r", branch=True)
    remove_run(repo.repository, "r")
    assert repo.git("for-each-ref", "--format=%(refname)", "refs/gru/runs").split() == [
        "refs/gru/runs/r2/record"
    ]
    assert repo.git("rev-parse", "gru/r").strip() == record.source
    assert not run_folder(repo.repository, "r").exists()


@pytest.mark.parametrize("there", [True, False])
def test_the_branch_goes_when_it_is_the_runs(repo: Any, record: RunRecord, there: bool) -> None:
    write_record(repo.repository, replace(record, state=RunState.FAILED), b"", {})
    if there:
        message = "train: step 1\n\nGru-Run: r\nGru-Step: 1\n"
        tree = f"{record.source}^{{tree}}"
        made = repo.git("commit-tree", tree, "-p", record.source, "-m", message).strip()
        repo.git("update-ref", "refs/heads/gru/r", made)
    remove_run(repo.repository, "r", branch=True)
    assert run_ids(repo.repository) == []
    assert "gru/r" not in repo.git("branch")


def test_logs_are_those_of_the_folder_then_those_of_the_record(repo: Any, record: RunRecord) -> None:
    assert read_logs(repo.repository, "r") == {"agent.log": b"kept\n"}
    folder = run_folder(repo.repository, "r")
    with hold(folder, LAUNCHER):
        (folder / "agent.log").write_bytes(b"first\n")
        assert read_logs(repo.repository, "r") == {"agent.log": b"first\n"}
        followed = follow_logs(repo.repository, "r")
        assert next(followed) == ("agent.log", b"first\n")
        (folder / "agent.log").write_bytes(b"first\nsecond\n")
        assert next(followed) == ("agent.log", b"second\n")
    write_record(repo.repository, replace(record, state=RunState.STOPPED), b"", {})
    assert list(followed) == []


def test_what_killed_runs_left_is_swept_and_nothing_else(repo: Any, record: RunRecord) -> None:
    mine = repo.repository
    for name in ("r", "young", "dead"):
        run_folder(mine, name).mkdir(parents=True)
    repo.git("update-ref", resume_ref("dead"), record.source)
    repo.git("update-ref", source_ref("dead"), record.source)
    repo.git("update-ref", source_ref("next"), record.source)
    with hold(run_folder(mine, "young"), LAUNCHER):
        sweep_runs(mine)
    assert sorted(path.name for path in run_folder(mine, "").iterdir()) == ["r", "young"]
    assert repo.git("for-each-ref", "--format=%(refname)", "refs/gru/runs").split() == [
        "refs/gru/runs/next/source",
        "refs/gru/runs/r/record",
    ]
