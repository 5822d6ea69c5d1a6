"""The engine beside a bare PyTorch loop of the same model, data, batch, optimizer, clipping and number of threads.

Both train in this process, in turns of a few steps: the engine is given a recorder that writes its log as usual and, when a turn
is over, lets the loop do as many steps before it returns. So a pair of turns is a second or so apart, and what else the machine
does meets both. The engine's turn has all that it does beside the step: the guard, the log, its signs of life.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from benchmarks import history
from benchmarks.runs import Project
from git_gru.git.repository import Repository
from git_gru.runs.metrics import Event, EventWriter
from git_gru.train.corpus import TRAIN
from git_gru.train.corpus.text import split_file
from git_gru.train.engine import Engine
from git_gru.train.job import Job
from git_gru.train.launch import job_of
from git_gru.train.plan import Request, make_plan
from git_gru.train.processes import worker_threads
from git_gru.train.recorder import Snapshot
from git_gru.train.world import World

TURN = 10
"""Steps of a turn: as many as there are between two lines of the log, and two looks of the guard, by default."""


def bare_loop(job: Job) -> Iterator[float]:
    """Does `TURN` steps at each `next` and yields their mean loss per byte."""
    train, window, batch = job.recipe.train, job.recipe.data.window, job.recipe.train.batch
    data = torch.frombuffer(bytearray(split_file(job.data, TRAIN).read_bytes()), dtype=torch.uint8)
    model = history.make_model(job.recipe.model.hidden, job.recipe.model.embedding)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=train.lr, weight_decay=train.weight_decay, fused=True)
    offsets = torch.arange(window + 1)
    while True:
        total = torch.zeros(())
        for _ in range(TURN):
            starts = torch.randint(0, len(data) - window, (batch, 1))
            windows = data[starts + offsets].long()
            logits = model(windows[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, train.clip)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach()
        yield total.item() / TURN


class Spent(NamedTuple):
    """Seconds on the clock, and of CPU time of this process (which tells more on a machine that does other work)."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "Spent":
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


class Turns:
    """A recorder (`git_gru.train.recorder.Recorder`) that lets a bare loop have its turn after each of the engine's."""

    def __init__(self, job: Job, events: EventWriter) -> None:
        self.pairs: list[tuple[Spent, Spent]] = []
        """What the engine's and the loop's turn took."""
        self._loop = bare_loop(job)
        self._events = events
        self._since: Spent | None = None

    def event(self, event: Event) -> None:
        """Writes the event down; with a line of the log a turn is over."""
        self._events.write(event)
        if event.loss is None:
            return
        over = Spent.now()
        torch.use_deterministic_algorithms(False)  # as a bare loop has it
        start = Spent.now()
        next(self._loop)
        ended = Spent.now()
        torch.use_deterministic_algorithms(True)
        if self._since is not None:  # the first turn of each warms up
            self.pairs.append((over - self._since, ended - start))
        self._since = Spent.now()

    def checkpoint(
        self, step: int, snapshot: Snapshot, metrics: Mapping[str, float], state: Snapshot | None = None
    ) -> None:
        """The run's end; nothing is kept."""


def turns(project: Project, pairs: int) -> list[tuple[Spent, Spent]]:
    """What as many turns of the engine and of a bare loop take."""
    repo = Repository.find(project.repository.folder)
    steps = TURN * (pairs + 1)
    settings: dict[str, Any] = {"train.steps": steps, "train.log_every": TURN}
    overrides = tuple(f"{key}={value}" for key, value in settings.items())
    job = job_of(repo, make_plan(repo, Request(overrides=overrides)))
    torch.set_num_threads(worker_threads(job.recipe.launch))
    with contextlib.closing(EventWriter(job.events)) as events:
        recorder = Turns(job, events)
        Engine(job, World.alone(), repo, recorder).run()
    return recorder.pairs
