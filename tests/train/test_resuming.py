"""`git gru train --resume`: whatever interrupted a run, it reaches the weights of one that nothing interrupted."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from git_gru.git.revisions import models_at
from git_gru.git.run_refs import write_record
from git_gru.git.run_states import read_state, read_states
from git_gru.runs.metrics import parse_events
from git_gru.runs.record import RunState
from git_gru.runs.trailers import parse_checkpoint
from git_gru.store.restore import restore
from git_gru.train.keeping import first_record
from git_gru.train.launch import job_of
from git_gru.train.plan import Plan, Request, make_plan
from git_gru.train.resuming import ResumeRefusedError, check_resumable, plan_resume

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a worker must end with its launcher"),
]

# 120 windows, batches of 6: an epoch ends every 20 steps; the warm-up lasts 25; dropout, so that random states count
STEPS = 32
OPTIONS = (
    f"train.steps={STEPS}", "train.checkpoint_every=2", "train.warmup=25", "model.layers=2", "model.dropout=0.3",
    "train.resume_every=10",
)  # fmt: skip


KILLS = 25  # in each of eight tests


class Forks:
    """The process that forks workers; see fork_server.py."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == self._server.pid, (
            "else the first run would take the seconds of the imports, too"
        )

    def start(self, job: Path, size: int) -> list[int]:
        """Starts all workers of a job; their process ids by rank."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return [self._ask(f"start {job} {rank} {size} {port}") for rank in range(size)]

    def wait(self, pid: int) -> int:
        return self._ask(f"wait {pid}")

    def _ask(self, line: str) -> int:
        assert self._server.stdin is not None
        print(line, file=self._server.stdin, flush=True)
        return self._answer()

    def _answer(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())

    def close(self) -> None:
        self._server.communicate()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    server = Forks()
    yield server
    server.close()


class Course:
    """One run, worked on by forked workers that are killed and resumed."""

    def __init__(self, project: Any, forks: Forks, size: int) -> None:
        self.project, self.forks, self.size = project, forks, size
        self.repo = project.work.repository

    def begin(self, *options: str) -> Plan:
        plan = make_plan(self.repo, Request(overrides=options or OPTIONS, nproc=self.size))
        write_record(self.repo, first_record(plan), b"", {})
        return plan

    def work(self, plan: Plan) -> list[int]:
        """Starts the workers of a plan."""
        return self.forks.start(job_of(self.repo, plan).write(), self.size)

    def commits(self, plan: Plan) -> list[str]:
        done = self.project.work.run("git", "rev-list", "--reverse", f"{plan.source}..{plan.ref}")
        return done.stdout.decode().split() if done.returncode == 0 else []

    def digests(self, commits: list[str]) -> list[str]:
        """Of the models in these commits."""
        models = [models_at(self.repo, commit) for commit in commits]
        return [model.digest for found in models for model in found.values()]

    def check_pair(self, plan: Plan) -> None:
        """The newest resume state and its checkpoint name each other, and all of both is in the store."""
        states = read_states(self.repo, plan.run)
        if states is None:
            assert self.commits(plan) == []
            return
        info = parse_checkpoint(self.project.git("log", "-1", "--format=%B", states.checkpoint))
        state = read_state(self.repo, states.blobs[states.newest])
        assert info is not None
        assert (info.run, info.step, info.resume) == (plan.run, states.newest, state.digest)
        assert all(step % 10 == 0 for step in states.blobs if step != states.newest)
        line = self.project.git("rev-list", "--reverse", f"{plan.source}..{states.checkpoint}").split()
        assert self.commits(plan) in (line, line[:-1])
        (model,) = models_at(self.repo, states.checkpoint).values()
        for manifest in (state, model):
            assert sum(map(len, restore(self.repo.store(), manifest))) == manifest.size


@pytest.mark.parametrize(("size", "seed"), [(size, seed) for size in (1, 2) for seed in range(4)])
def test_kills_at_any_moment_change_nothing(project: Any, forks: Forks, size: int, seed: int) -> None:
    """200 kills in all, each at a moment drawn from what is left of a run; a run that gets through is followed by another."""
    course = Course(project, forks, size)
    whole = course.begin()
    began = time.monotonic()
    pids = course.work(whole)
    assert [forks.wait(pid) for pid in pids] == [0] * size
    usual = time.monotonic() - began
    expected = course.digests(course.commits(whole))
    assert len(expected) == STEPS // 2

    chance = random.Random(f"{size} {seed}")
    plan, left = course.begin(), 1.0
    for _ in range(KILLS):
        before = course.commits(plan)
        if before or left < 1:
            plan = plan_resume(course.repo, plan.run)
        pids = course.work(plan)
        time.sleep(usual * left * chance.random())
        victims = pids if chance.random() < 0.5 else [chance.choice(pids)]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        if len(victims) < size:
            time.sleep(0.1)
            for pid in set(pids) - set(victims):  # as the agent does with those who are left
                os.kill(pid, signal.SIGTERM)
        ends = [forks.wait(pid) for pid in pids]
        made = course.commits(plan)
        assert made[: len(before)] == before
        course.check_pair(plan)
        left = 1 - 0.9 * len(made) / len(expected)
        if ends == [0] * size:  # the kill came too late
            assert course.digests(made) == expected
            plan, left = course.begin(), 1.0
    plan = plan_resume(course.repo, plan.run) if left < 1 else plan
    assert [forks.wait(pid) for pid in course.work(plan)] == [0] * size
    assert course.digests(course.commits(plan)) == expected


@pytest.mark.parametrize(
    "sync",
    [
        ("strategy=local-sgd", "warmup=3", "every=4"),
        ("strategy=diloco", "warmup=2", "every=6", "fragments=2", "overlap=2", "compress=int8"),
        ("compress=int8",),
        ("compress=powersgd", "rank=1", "warmup=5"),
    ],
    ids=lambda sync: "-".join(sync[:1]).partition("=")[2],
)
def test_a_strategy_goes_on_where_it_was(project: Any, forks: Forks, sync: tuple[str, ...]) -> None:
    """Stopped in the middle of a round, too: every rank has its own weights, optimizer, and what is owed or under way."""
    course = Course(project, forks, 2)
    options = (*OPTIONS, "train.steps=14", *(f"sync.{key}" for key in sync))
    whole, plan = course.begin(*options), course.begin(*options)
    pids = course.work(whole)
    pids += forks.start(replace(job_of(course.repo, plan), until=9).write(), 2)
    assert [forks.wait(pid) for pid in pids] == [0] * 4
    resumed = plan_resume(course.repo, plan.run)
    assert resumed.start is not None
    assert resumed.start.step == 9
    assert [forks.wait(pid) for pid in course.work(resumed)] == [0, 0]
    *stopped_at, last = course.digests(course.commits(resumed))
    expected = course.digests(course.commits(whole))
    assert [*stopped_at[:4], *stopped_at[5:], last] == expected
    log = (job_of(course.repo, resumed).folder / "metrics.jsonl").read_bytes()
    (*_, told) = [event for event in parse_events(log) if event.loss is not None]
    assert len(told.sent) == len(told.waited) == 2
    assert min(told.sent) > 0


def test_a_killed_launcher_is_resumed(project: Any, forks: Forks, waiting: Any) -> None:
    course = Course(project, forks, 1)
    whole = course.begin()
    assert [forks.wait(pid) for pid in course.work(whole)] == [0]
    options = [word for option in OPTIONS for word in ("--set", option)]
    run = project.start("--nproc", "1", *options, "--branch", "half")
    waiting(lambda: project.work.run("git", "rev-parse", "half").returncode == 0 or run.poll() is not None)
    run.send_signal(signal.SIGSTOP)  # or it may be done before it is killed
    (id,) = (one["id"] for one in records(project) if one["branch"] == "half")
    assert "is still running" in project.refused("train", "--resume", id)
    run.kill()
    run.communicate(timeout=60)
    assert [one["state"] for one in records(project) if one["id"] == id] == ["failed"]
    there = project.git("rev-list", "--reverse", "main..half").split()

    after = project.train("--resume", id)

    assert (after["state"], after["id"], after["step"]) == ("finished", id, STEPS)
    made = [checkpoint["commit"] for checkpoint in after["checkpoints"]]
    assert made == project.git("rev-list", "--reverse", "main..half").split()
    assert made[: len(there)] == there
    assert course.digests(made) == course.digests(course.commits(whole))
    log = project.git("show", f"refs/gru/runs/{id}/record:metrics.jsonl").splitlines()
    events = [json.loads(line) for line in log]
    assert [event["commit"] for event in events if "commit" in event] == made
    assert sum("resumed after step" in event.get("message", "") for event in events) == 1
    assert "is finished" in project.refused("train", "--resume", id)


def records(project: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(project.gru("runs", "list", "--json").stdout)["runs"]
    return found


@pytest.mark.parametrize(
    ("size", "sync"),
    [
        (3, ("strategy=diloco", "warmup=2", "every=6", "fragments=2", "overlap=2", "compress=int8")),
        (1, ("strategy=local-sgd", "warmup=3", "every=4")),
        (3, ("compress=powersgd", "rank=1", "warmup=5")),
        (1, ("compress=topk", "warmup=5")),
    ],
    ids=["diloco", "local-sgd", "powersgd", "topk"],
)
def test_another_number_of_workers_goes_on(
    project: Any, forks: Forks, size: int, sync: tuple[str, ...]
) -> None:
    """From the middle of a round, too."""
    course = Course(project, forks, 2)
    plan = course.begin(*OPTIONS, "train.steps=40", *(f"sync.{key}" for key in sync))
    pids = forks.start(replace(job_of(course.repo, plan), until=9).write(), 2)
    assert [forks.wait(pid) for pid in pids] == [0, 0]
    resumed = plan_resume(course.repo, plan.run, overrides=[f"launch.nproc={size}"])
    pids = forks.start(job_of(course.repo, resumed).write(), size)
    assert [forks.wait(pid) for pid in pids] == [0] * size
    log = (job_of(course.repo, resumed).folder / "metrics.jsonl").read_bytes()
    kept = [event for event in parse_events(log) if event.commit is not None]
    assert [event.step for event in kept] == sorted({*(event.step for event in kept), 9, 40})
    assert [event.commit for event in kept] == course.commits(resumed)
    losses = [event.validation["val_loss"] for event in kept]
    before = next(number for number, event in enumerate(kept) if event.step == 9)
    assert losses[-1] < losses[before] < losses[0]


def test_a_branch_that_somebody_moved_is_left_alone(project: Any, forks: Forks) -> None:
    course = Course(project, forks, 1)
    plan = course.begin()
    pids = course.work(plan)
    assert [forks.wait(pid) for pid in pids] == [0]
    made = course.commits(plan)
    project.git("update-ref", plan.ref, plan.source)

    resumed = plan_resume(course.repo, plan.run)

    assert resumed.branch == f"{plan.branch}-2"
    assert course.commits(resumed) == made
    assert project.git("rev-parse", plan.ref).strip() == plan.source


def test_resume_takes_nothing_else(project: Any) -> None:
    said = project.refused("train", "--resume", "x", "--branch", "b", status=2)
    assert "takes source, recipe and branch from the run's record" in said
    said = project.refused(
        "train", "--resume", "x", "--set", "launch.threads=1", "--set", "train.lr=1", status=2
    )
    assert "--set takes keys of the recipe's section launch alone" in said
    assert "there is no run x here" in project.refused("train", "--resume", "x")


def test_runs_of_another_machine_are_resumed_there(project: Any) -> None:
    repo = project.work.repository
    plan = make_plan(repo, Request(nproc=1))
    record = replace(first_record(plan), host="elsewhere")
    write_record(repo, record, b"", {})
    with pytest.raises(ResumeRefusedError, match="is running on elsewhere"):
        check_resumable(repo, plan.run)
    write_record(repo, replace(record, state=RunState.STOPPED), b"", {})
    with pytest.raises(ResumeRefusedError, match="is on elsewhere, and not here"):
        check_resumable(repo, plan.run)
    write_record(repo, replace(record, state=RunState.STOPPED, host=socket.gethostname()), b"", {})
    check_resumable(repo, plan.run)
