"""`git gru train --push`: others see the run, and a push that fails is told and stops nothing."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.http_hub import new_hub
from git_gru.git.repository import Repository
from git_gru.git.run_refs import read_record, write_record
from git_gru.git.run_sharing import fetch_runs
from git_gru.runs.metrics import parse_events
from git_gru.train.keeping import first_record
from git_gru.train.launch import job_of
from git_gru.train.plan import Request, make_plan
from git_gru.train.sharing import publishing


@pytest.mark.slow
def test_others_see_a_run(project: Any, tmp_path: Path) -> None:
    hub = new_hub(tmp_path / "hub.git")
    project.git("remote", "add", "origin", str(hub))
    project.git("push", "-q", "origin", "main")

    shared = project.train("--nproc", "1", "--push", "origin", "--set", "train.steps=2")

    other = tmp_path / "other"
    subprocess.run(["git", "clone", "-q", str(hub), str(other)], check=True, capture_output=True)
    colleague = Repository.find(other)
    assert fetch_runs(colleague, "origin") == [shared["id"]]
    record = read_record(colleague, shared["id"])
    assert json.loads(json.dumps(record.as_json())) == {
        key: value for key, value in shared.items() if key != "fast_forwarded"
    }
    tip = colleague.git("rev-parse", f"origin/{shared['branch']}").decode().strip()
    assert tip == shared["checkpoints"][-1]["commit"]


def test_a_remote_that_comes_and_goes_is_told_of_once(
    project: Any, tmp_path: Path, waiting: Callable[..., None]
) -> None:
    hub, away = tmp_path / "hub.git", tmp_path / "away.git"
    project.git("remote", "add", "origin", str(hub))
    repo = project.work.repository
    plan = make_plan(repo, Request(push="origin"))
    write_record(repo, first_record(plan), b"", {})
    job = job_of(repo, plan)

    def told() -> list[tuple[int, str]]:
        events = parse_events(job.events.read_bytes()) if job.events.exists() else []
        return [(event.step, event.message or "") for event in events]

    with publishing(repo, plan, job) as publisher:
        assert publisher is not None
        publisher.tell(1)
        waiting(lambda: len(told()) == 1)
        publisher.tell(2)
        new_hub(away).rename(hub)
        publisher.tell(3)
        waiting(lambda: len(told()) == 2)
        hub.rename(away)
        publisher.tell(4)
        waiting(lambda: len(told()) == 3)
    first, second, third = told()
    assert first[1].startswith("not pushed to origin: git push failed: ")
    assert second[1] == "pushing to origin works again"
    assert third == (4, first[1])
    assert publisher.failure == first[1]


def test_a_run_that_is_not_pushed_has_no_publisher(project: Any) -> None:
    plan = make_plan(project.work.repository, Request())
    with publishing(project.work.repository, plan, job_of(project.work.repository, plan)) as publisher:
        assert publisher is None
    assert "is no remote" in project.refused("train", "--push", "nope")
