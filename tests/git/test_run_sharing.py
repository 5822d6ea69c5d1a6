"""Runs between repositories: what is pushed is all that is needed, and the newer record holds."""

import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.http_hub import new_hub
from git_gru.git.repository import Repository
from git_gru.git.revisions import models_at
from git_gru.git.run import GitCommandError
from git_gru.git.run_folders import LAUNCHER, hold, run_folder
from git_gru.git.run_refs import read_record, record_ref, run_ids, write_record
from git_gru.git.run_sharing import Pushed, fetch_runs, push_run
from git_gru.git.sources import UnknownRemoteError
from git_gru.runs.record import RunRecord, RunState
from git_gru.store.restore import restore

RECORD = RunRecord(
    id="260412-101530-abcdef",
    state=RunState.FINISHED,
    started=1.0,
    source="s" * 40,
    branch="gru/x",
    model="model.safetensors",
    recipe_path="gru.toml",
    recipe={},
    nproc=1,
    seed=0,
    steps=4,
    host="elsewhere",
    pid=os.getpid(),
)
REF = "refs/heads/gru/x"


@pytest.fixture
def hub(repo: Any, tmp_path: Path) -> Path:
    path = new_hub(tmp_path / "hub.git")
    repo.write("notes.txt", b"x")
    repo.commit("source")
    repo.git("remote", "add", "origin", str(path))
    return path


@pytest.fixture
def colleague(hub: Path, tmp_path: Path) -> Repository:
    subprocess.run(["git", "clone", "-q", str(hub), str(tmp_path / "other")], check=True, capture_output=True)
    return Repository.find(tmp_path / "other")


def write(repo: Repository, record: RunRecord, when: int) -> None:
    """Writes a record as of second `when`."""
    written = write_record(repo, record, b"", {})
    environment = {f"GIT_{who}_DATE": f"@{when} +0000" for who in ("AUTHOR", "COMMITTER")}
    dated = repo.git("commit-tree", f"{written}^{{tree}}", "-m", "record", env=environment).decode().strip()
    repo.git("update-ref", record_ref(record.id), dated)


def test_a_push_brings_models_before_the_branch(
    repo: Any, hub: Path, colleague: Repository, make_arrays: Any
) -> None:
    mine = repo.repository
    write_record(mine, RECORD, b"", {})
    nothing = push_run(mine, "origin", RECORD.id, REF, Pushed(None))
    assert nothing == Pushed(None)
    repo.write("model.safetensors", make_arrays(1))
    first = repo.commit("first")
    repo.git("update-ref", REF, first)
    done = push_run(mine, "origin", RECORD.id, REF, nothing)
    assert done == Pushed(first)
    assert push_run(mine, "origin", RECORD.id, REF, done) == done

    assert fetch_runs(colleague, "origin") == [RECORD.id]
    assert fetch_runs(colleague, "origin") == []
    assert read_record(colleague, RECORD.id) == RECORD
    colleague.git("fetch", "--quiet")
    assert colleague.git("rev-parse", "origin/gru/x").decode().strip() == first
    store = colleague.store()
    (model,) = models_at(colleague, "origin/gru/x").values()
    assert b"".join(restore(store, model)) == repo.read("model.safetensors")
    assert "incoming" not in colleague.git("for-each-ref").decode()


def test_the_newer_record_holds(repo: Any, hub: Path, colleague: Repository) -> None:
    mine = repo.repository
    for when, step in ((100, 1), (200, 2)):
        write(mine, replace(RECORD, step=step), when)
        push_run(mine, "origin", RECORD.id, REF, Pushed(None))
        assert fetch_runs(colleague, "origin") == [RECORD.id]
        assert read_record(colleague, RECORD.id).step == step
    write(mine, replace(RECORD, step=3), 300)
    assert fetch_runs(mine, "origin") == []  # what was pushed is older than what is here
    assert read_record(mine, RECORD.id).step == 3


def test_one_second_is_decided_by_where_the_run_is(repo: Any, hub: Path, colleague: Repository) -> None:
    mine = repo.repository
    for host, expected in (("elsewhere", 1), (socket.gethostname(), 2)):
        write(mine, replace(RECORD, host=host, step=1), 100)
        push_run(mine, "origin", RECORD.id, REF, Pushed(None))
        write(mine, replace(RECORD, host=host, step=2), 100)
        fetch_runs(mine, "origin")
        assert read_record(mine, RECORD.id).step == expected


def test_a_run_at_work_here_is_left_alone(repo: Any, hub: Path, colleague: Repository) -> None:
    mine = repo.repository
    write(mine, RECORD, 100)
    push_run(mine, "origin", RECORD.id, REF, Pushed(None))
    with hold(run_folder(colleague, RECORD.id), LAUNCHER):
        assert fetch_runs(colleague, "origin") == []
    assert run_ids(colleague) == []


def test_what_is_no_record_is_not_taken(repo: Any, hub: Path, colleague: Repository) -> None:
    mine = repo.repository
    written = write_record(mine, RECORD, b"", {})
    for name in ("other", "a/b", "-x"):  # another id than the record's, and names that are no ids
        repo.git("push", "-q", "--no-verify", "origin", f"{written}:refs/gru/runs/{name}/record")
    repo.git("push", "-q", "--no-verify", "origin", "HEAD:refs/gru/runs/plain/record")
    assert fetch_runs(colleague, "origin") == []


def test_remotes_that_are_not_there(repo: Any, hub: Path) -> None:
    mine = repo.repository
    write_record(mine, RECORD, b"", {})
    with pytest.raises(UnknownRemoteError):
        fetch_runs(mine, "nowhere")
    hub.rename(hub.with_name("gone"))
    for use in (
        lambda: fetch_runs(mine, "origin"),
        lambda: push_run(mine, "origin", RECORD.id, REF, Pushed(None)),
    ):
        with pytest.raises(GitCommandError):
            use()
