"""The launcher's side of a run, without one."""

import json
from typing import Any

import pytest

from git_gru.runs.record import RunRecord, RunState
from git_gru.train import launch
from git_gru.train.launch import fast_forward, run_plan
from git_gru.train.plan import Request, make_plan


def test_here_follows_the_branch_that_the_run_came_to(repo: Any) -> None:
    """Not the one that it began with, where somebody else has moved that."""
    repo.commit("source")
    repo.git("checkout", "-q", "-b", "gru/r-2")
    repo.write("a.txt", b"trained")
    trained = repo.commit("train: step 1")
    repo.git("checkout", "-q", "main")
    repo.git("branch", "gru/r")
    record = RunRecord(
        id="r", state=RunState.FINISHED, started=1.0, source="s", branch="gru/r-2", here="main", model="m", recipe_path=None,
        recipe={}, nproc=1, seed=0, steps=1, host="h", pid=1,
    )  # fmt: skip
    assert fast_forward(repo.repository, record)
    assert repo.git("rev-parse", "HEAD").strip() == trained
    assert repo.git("branch", "--format=%(refname:short)").split() == ["gru/r", "main"]


def test_a_run_whose_launcher_fails_has_failed(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Watcher:
        def started(self, record: RunRecord) -> None:
            assert record.state is RunState.RUNNING

    def broken(*parts: object) -> None:
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(launch, "follow_agent", broken)
    repo, watcher = project.work.repository, Watcher()
    with pytest.raises(OSError, match="requested address"):
        run_plan(repo, make_plan(repo, Request(branch="b", nproc=1)), watcher)  # type: ignore[arg-type]
    (record,) = json.loads(project.gru("runs", "list", "--json").stdout)["runs"]
    assert (record["state"], record["failure"]["message"]) == (
        "failed",
        "[Errno 99] Cannot assign requested address",
    )
