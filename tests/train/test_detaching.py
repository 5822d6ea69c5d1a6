"""Detached runs: they outlive their terminal, and are followed, stopped, compared and removed from outside."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from git_gru.train.detaching import DetachError

pytestmark = pytest.mark.slow
ENDLESS = ("--nproc", "1", "--set", "train.steps=100000", "--set", "train.checkpoint_every=20")


def test_a_detached_run_from_its_beginning_to_its_removal(project: Any, waiting: Any) -> None:
    begun = project.train("--detach", *ENDLESS, "--branch", "far", "--tensorboard", "board")
    id = begun["id"]
    assert (begun["state"], begun["branch"]) == ("running", "far")
    if sys.platform.startswith("linux"):
        assert os.getsid(begun["pid"]) == begun["pid"]
    waiting(lambda: project.work.run("git", "rev-parse", "far").returncode == 0)
    assert "is running" in project.refused("runs", "rm", id)

    assert "stops after its current step" in project.gru("runs", "stop", id[:-1]).stdout.decode()
    followed = project.gru("runs", "logs", "-f", id).stdout.decode()

    assert "==> launcher.log <==" in followed
    assert "stopping after this step" in followed
    record = json.loads(project.gru("runs", "show", id, "--json").stdout)
    assert record["state"] == "stopped"
    assert record["checkpoints"][-1]["commit"] == project.git("rev-parse", "far").strip()
    waiting(lambda: not Path(f"/proc/{begun['pid']}").exists())
    logs = json.loads(project.gru("runs", "logs", id, "--json").stdout)["logs"]
    assert "commits go to far" in logs["launcher.log"]
    (board,) = (project.work.path / "board" / id).iterdir()
    assert b"val_loss" in board.read_bytes()

    compared = json.loads(project.gru("runs", "compare", id, "--json").stdout)
    assert (compared["runs"], compared["recipe"]) == ([id], {})
    assert compared["metrics"]["val_loss"] == [record["checkpoints"][-1]["metrics"]["val_loss"]]
    curve = compared["curves"][id]
    assert curve[0] == [0, record["initial"]["val_loss"]]
    assert [step for step, _ in curve[1:]] == [made["step"] for made in record["checkpoints"]]
    shown = project.gru("runs", "compare", id).stdout.decode()
    assert f"* {id}" in shown

    assert project.gru("runs", "rm", id, "--branch").returncode == 0
    assert project.git("for-each-ref", "refs/gru/runs") == ""
    assert project.git("branch", "--format=%(refname:short)").split() == ["main"]


def test_what_keeps_a_detached_run_from_beginning_is_told_at_once(project: Any) -> None:
    said = project.refused("train", "--detach", "--set", "data.files=none/*")
    assert "the run did not begin: " in said
    assert "data.files" in said
    assert project.git("for-each-ref", "refs/gru/runs") == ""
    assert not list((project.work.repository.gru_dir / "runs").iterdir())


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        ("git gru: it is so\nhint: do this\n", "the run did not begin: it is so", "do this"),
        ("step 1\ngit gru: it is so\n", "the run did not begin: it is so", None),
        ("", "the run did not begin: it ended with exit status 3", None),
    ],
)
def test_the_sentence_of_the_process_becomes_ours(said: str, message: str, hint: str | None) -> None:
    error = DetachError(said, 3)
    assert (str(error), error.hint, error.exit_code) == (message, hint, 3)
