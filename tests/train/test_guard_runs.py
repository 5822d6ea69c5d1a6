"""Faults in real runs: the guard's part from the step to the commits and the record."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from git_gru.runs.metrics import EventWriter, parse_events
from git_gru.runs.trailers import parse_checkpoint
from git_gru.train.engine import Engine
from git_gru.train.guard import DivergedError
from git_gru.train.job import Job
from git_gru.train.launch import prepare_data
from git_gru.train.plan import read_recipe
from git_gru.train.recorder import CommitRecorder, destination_of
from git_gru.train.tasks.language_model import LanguageModelTask
from git_gru.train.world import World

pytestmark = pytest.mark.slow

LONG = ("--branch", "long", "--set", "train.steps=100000", "--set", "train.checkpoint_every=20")


@pytest.fixture
def job(project: Any, tmp_path: Path) -> Callable[..., Job]:
    """A job for one worker in this process: `job(*overrides)`."""

    def make(*overrides: str) -> Job:
        repo = project.work.repository
        source = project.git("rev-parse", "HEAD").strip()
        recipe = read_recipe(repo, source, "gru.toml", ("launch.nproc=1", *overrides))
        return Job(
            run="r", folder=tmp_path, repository=repo.top, source=source, ref="refs/heads/gru/r", parent_model=None,
            recipe=recipe, architecture=prepare_data(repo, source, recipe, None, tmp_path),
        )  # fmt: skip

    return make


def train(project: Any, job: Job, poison: Callable[[int, torch.Tensor], torch.Tensor]) -> list[list[int]]:
    """Trains; `poison(n, loss)` gives the loss of the n-th batch. Returns the samples of all batches taken."""
    torch.set_num_threads(1)
    repo, taken = project.work.repository, []
    with CommitRecorder(repo, destination_of(job), EventWriter(job.events)) as recorder:
        engine = Engine(job, World.alone(), repo, recorder)
        batch, loss = engine._train.batch, engine._task.loss

        def take(indices: Any) -> torch.Tensor:
            taken.append(indices.tolist())
            return batch(indices)

        def bad(network: torch.nn.Module, data: torch.Tensor) -> torch.Tensor:
            return poison(len(taken), loss(network, data)) if network.training else loss(network, data)

        engine._train.batch, engine._task.loss = take, bad  # type: ignore[method-assign]
        engine.run()
    return taken


def test_a_batch_that_makes_the_loss_nan_is_left_out(project: Any, job: Callable[..., Job]) -> None:
    planned = job("train.steps=9", "guard.on_divergence=rollback", "guard.lr_factor=0.5")

    taken = train(project, planned, lambda n, loss: loss * float("nan") if n == 5 else loss)

    # back from step 6 to the checkpoint of step 3: nine steps, and three batches that did not count
    assert len(taken) == 12
    events = parse_events(planned.events.read_bytes())
    (incident,) = [event.incident for event in events if event.incident]
    assert (incident.kind, incident.step, incident.rank) == ("loss", 5, 0)
    assert (incident.action, incident.back_to, incident.skipped) == ("rollback", 3, 3)
    assert list(incident.samples) == taken[4]
    assert incident.gradient_norms["gru.weight_ih_l0"] is None
    logged = {event.step: event.lr for event in events if event.loss is not None}
    assert logged[8] is not None
    commits = project.git("rev-list", "--reverse", f"{planned.source}..gru/r").split()
    infos = [parse_checkpoint(project.git("log", "-1", "--format=%B", commit)) for commit in commits]
    assert [info.step for info in infos if info] == [3, 6, 9]
    assert infos[2] is not None
    assert infos[0] is not None
    assert infos[2].metrics["val_loss"] < infos[0].metrics["val_loss"]


def test_a_rollback_takes_the_outer_optimizer_back(project: Any, job: Callable[..., Job]) -> None:
    """The NaN of step 5 has reached anchor and momentum when it is noticed: the end of a round comes first."""
    diloco = ("sync.strategy=diloco", "sync.warmup=1", "sync.every=4")
    planned = job("train.steps=9", "guard.on_divergence=rollback", *diloco)
    taken = train(project, planned, lambda n, loss: loss * float("nan") if n == 5 else loss)
    assert len(taken) == 11
    events = parse_events(planned.events.read_bytes())
    (incident,) = [event.incident for event in events if event.incident]
    assert (incident.kind, incident.step, incident.back_to) == ("loss", 5, 3)
    assert [event.step for event in events if event.commit] == [3, 6, 9]


def test_a_carried_state_that_is_nan_is_not_carried_over_a_rollback(
    project: Any, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = LanguageModelTask.loss, 0

    def loss(self: LanguageModelTask, network: torch.nn.Module, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        found = real(self, network, batch)
        if calls == 5:
            self.carried["state"] = self.carried["state"] * float("nan")
        return found

    monkeypatch.setattr(LanguageModelTask, "loss", loss)
    planned = job("train.steps=9", "guard.on_divergence=rollback", "data.stateful=true")
    assert len(train(project, planned, lambda n, found: found)) == 12


@pytest.mark.parametrize(
    ("poison", "kind"),
    [
        (lambda n, loss: loss + (loss - loss.detach()) * 1e38 * 1e38 if n == 4 else loss, "gradients"),
        (lambda n, loss: loss * (1e6 if n >= 30 else 1), "spike"),
        (lambda n, loss: loss + (loss - loss.detach()) * 1e6 if n >= 30 else loss, "explosion"),
    ],
)
def test_other_faults_stop_a_run_with_their_cause(
    project: Any, job: Callable[..., Job], poison: Any, kind: str
) -> None:
    planned = job("train.steps=60", "train.checkpoint_every=50")
    with pytest.raises(DivergedError) as caught:
        train(project, planned, poison)
    assert caught.value.incident.kind == kind
    assert caught.value.incident.step == (4 if kind == "gradients" else 30)
    assert len(caught.value.incident.samples) == 6
    (told,) = [event.incident for event in parse_events(planned.events.read_bytes()) if event.incident]
    assert told == caught.value.incident
    assert project.git("branch", "--list", "gru/r") == ""


def test_an_absurd_learning_rate_is_lowered_until_it_works(project: Any) -> None:
    record = project.train(
        "--branch", "tamed", "--nproc", "1", "--set", "train.lr=1e30", "--set", "train.clip=0", "--set", "train.optimizer=sgd",
        "--set", "guard.on_divergence=rollback", "--set", "guard.lr_factor=1e-31", "--tensorboard", "board",
    )  # fmt: skip
    assert record["state"] == "finished"
    (board,) = (project.work.path / "board" / record["id"]).iterdir()
    assert board.read_bytes().count(b"val_loss") == 3
    table = project.gru("runs", "show", record["id"], "--metrics", "csv").stdout.decode().splitlines()
    values = json.loads(project.gru("runs", "show", record["id"], "--metrics", "json").stdout)
    assert len(table) - 1 == len(values["metrics"])
    assert sum("commit" in one for one in values["metrics"]) == 2
    (incident,) = record["incidents"]
    assert (incident["action"], incident["back_to"], incident["lr_scale"]) == ("rollback", 0, 1e-31)
    assert [made["step"] for made in record["checkpoints"]] == [3, 6]
    shown = project.gru("runs", "show", record["id"]).stdout.decode()
    assert "back to the start, leaving out the batches since, learning rate times 1e-31" in shown
    assert "gru.weight_ih_l0" in shown


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")
def test_a_worker_that_stands_still_is_named(
    project: Any, waiting: Any, workers: Callable[[int], list[int]]
) -> None:
    run = project.start(*LONG, "--set", "guard.stall=3")
    waiting(lambda: project.work.run("git", "rev-parse", "long").returncode == 0 or run.poll() is not None)
    pids = workers(run.pid)
    ranks = {
        int(variable.removeprefix(b"RANK=")): pid
        for pid in pids
        for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if variable.startswith(b"RANK=")
    }
    os.kill(ranks[1], signal.SIGSTOP)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 7, err.decode()
    assert "worker 1: stalled" in err.decode()
    (record,) = json.loads(project.gru("runs", "list", "--json").stdout)["runs"]
    assert (record["state"], record["failure"]["rank"]) == ("failed", 1)
    assert record["checkpoints"]
