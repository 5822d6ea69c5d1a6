"""`git gru train --push`: others see the run, and a push that fails is told and stops nothing."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.http_hub import new_hub
from git_gru.git.repository import Repository
from git_gru.git.run_refs import read_record
from git_gru.git.run_sharing import fetch_runs

pytestmark = pytest.mark.slow


def test_others_see_a_run_and_a_failing_push_stops_nothing(project: Any, tmp_path: Path) -> None:
    hub = new_hub(tmp_path / "hub.git")
    project.git("remote", "add", "origin", str(hub))
    project.git("remote", "add", "gone", str(tmp_path / "nowhere.git"))
    project.git("push", "-q", "origin", "main")

    shared = project.train("--nproc", "1", "--push", "origin", "--set", "train.steps=2")
    done = project.gru("train", "--nproc", "1", "--push", "gone", "--set", "train.steps=2")

    assert done.returncode == 0
    assert "not pushed to gone: " in done.stderr.decode()
    assert "finished" in done.stdout.decode()
    assert "no remote" in project.refused("train", "--push", "nope")

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
