"""The launcher's side on a node that joins a run: it trains what node 0 says, and writes nothing. Free of torch.

    find node 0 ──> welcome: bring the commit, prepare the data ──> ready ──> generations, as node 0 starts and ends them ──> end
         ^                                                                        │
         └────────────── node 0 is lost (and the run's nodes may come and go) ────┘

A node that was cut off comes back by itself, and so does one that waits for a node 0 that is being resumed.
"""

import contextlib
import os
import queue
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from git_gru.errors import GruError, RunFailedError
from git_gru.git.repository import Repository
from git_gru.git.run_control import sweep_runs
from git_gru.git.run_folders import LAUNCHER, hold, run_folder
from git_gru.train.failures import find_cause, is_loss, stall_cause
from git_gru.train.following import POLL_SECONDS, Command, Ended, Watcher, follow_agent
from git_gru.train.interrupts import Interrupts, counted_interrupts
from git_gru.train.job import Job
from git_gru.train.leading import WaitInterruptedError
from git_gru.train.line import LOST, Line, Message
from git_gru.train.nodes import JoinError
from git_gru.train.plan import require_torch
from git_gru.train.recipe_file import launch_of
from git_gru.train.welcome import (
    Joining,
    Offer,
    beginning_in,
    generation_in,
    job_told,
    no_node_0,
    offer_in,
    problem_here,
)

_TRY_SECONDS = 2.0
_PAUSE_SECONDS = 0.3
_LAST_STEPS = 5.0
"""Seconds that workers have to leave by themselves once node 0 has said that the run is over."""


class NodeLostError(RunFailedError):
    """Node 0 is lost, and with it the run's commits."""


class NoWelcomeError(JoinError):
    """A connection to the endpoint ended before it was said there what is trained."""


def assist(repo: Repository, joining: Joining, watcher: Watcher) -> tuple[int, bool]:
    """Trains for node 0 until that ends the run; this node's number, and whether the run went through to the end.

    Raises `RunFailedError` when workers failed here (their logs stay then, in the run's folder) or the run has failed,
    `JoinError` when node 0 was not found, `NodeLostError` when it is lost, and `GruError` for what this node cannot do.
    """
    require_torch()
    if (problem := problem_here(repo, joining)) is not None:
        watcher.waiting(f"by this clone's own recipe node 0 could not begin: {problem}")
    sweep_runs(repo)
    with counted_interrupts() as interrupts:
        return _Assistant(repo, joining, watcher, interrupts).run()


class _Assistant:
    """One node's part in a run, over all its connections to node 0."""

    def __init__(self, repo: Repository, joining: Joining, watcher: Watcher, interrupts: Interrupts) -> None:
        self._repo, self._joining, self._watcher, self._interrupts = repo, joining, watcher, interrupts
        self._nodes, self._launch = joining.nodes, launch_of(joining.overrides)
        self._inbox: queue.SimpleQueue[tuple[Line, Message]] = queue.SimpleQueue()
        self._line: Line | None = None
        self._number = 0
        self._offer: Offer | None = None
        self._job: Job | None = None
        self._end: Message | None = None
        self._ended = 0.0
        self._lost: str | None = None
        self._failure: RunFailedError | None = None
        self._has_left = self._is_halted = self._is_welcome = False

    @property
    def _who(self) -> str:
        return f"{socket.gethostname()} ({self._nodes.address})"

    def run(self) -> tuple[int, bool]:
        """See `assist`."""
        lost: NodeLostError | None = None
        until, told = self._deadline(), ""
        with self._folder() as folder:
            while True:
                try:
                    line = self._find(until)
                except JoinError as error:
                    raise lost or error from None
                try:
                    finished = self._serve(line, folder)
                    return self._number, finished
                except NodeLostError as error:
                    why, told, lost, until = str(error), "", error, self._deadline()
                    if not self._nodes.counts.is_elastic:
                        raise
                except NoWelcomeError as error:
                    why = str(error)
                    if not self._nodes.counts.is_elastic or time.monotonic() > until:
                        raise lost or error from None
                finally:
                    line.close()
                if why != told:
                    told = why
                    self._watcher.waiting(
                        f"{why}; waiting for it up to {self._launch.join_timeout:g} seconds"
                    )
                time.sleep(_PAUSE_SECONDS)

    def _deadline(self) -> float:
        """Until when node 0 is waited for from now on, on the monotonic clock."""
        return time.monotonic() + self._launch.join_timeout

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        """A folder for this node's part, which stays only if workers failed here."""
        folder = run_folder(self._repo, f"node-{os.getpid()}")
        with hold(folder, LAUNCHER):
            try:
                yield folder
            finally:
                if self._failure is None:
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    shutil.rmtree(folder / "data", ignore_errors=True)

    def _find(self, until: float) -> Line:
        """Connects with node 0, which may take its time to begin. Raises `JoinError`."""
        host, port, patience = self._nodes.host, self._nodes.port, self._launch.join_timeout
        told = False
        while True:
            self._check_interrupts()
            try:
                connection = socket.create_connection((host, port), timeout=_TRY_SECONDS)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return Line(connection, self._launch.lost_after, self._inbox)
            except OSError as error:
                if time.monotonic() > until:
                    raise JoinError(
                        f"node 0 was not found at {host}:{port} within {patience:g} seconds (launch.join_timeout): "
                        f"{error.strerror or error}",
                        hint="Start node 0, and see that this machine reaches that port (a firewall, another network).",
                    ) from error
            if not told:
                told = True
                self._watcher.waiting(f"waiting for node 0 at {host}:{port}")
            time.sleep(_PAUSE_SECONDS)

    def _serve(self, line: Line, folder: Path) -> bool:
        """Whether the run went through to the end. Raises `NodeLostError`, too."""
        self._greet(line)
        while self._end is None:
            self._check_interrupts(allowed=self._has_left)
            try:
                message = self._next(POLL_SECONDS)
            except queue.Empty:
                continue
            if message["kind"] == "refused":
                raise JoinError(f"node 0 refused this node: {message.get('message')}")
            if message["kind"] == "welcome":
                self._prepare(line, message, folder)
            elif message["kind"] == "train":
                self._train(line, message)
            self._check_lost()
        return self._outcome(self._end)

    def _greet(self, line: Line) -> None:
        """Begins with a connection."""
        self._line, self._lost, self._end, self._is_welcome = line, None, None, False
        nodes, name = self._nodes, socket.gethostname()
        line.send("hello", name=name, address=nodes.address, number=nodes.number, nnodes=str(nodes.counts))

    def _next(self, patience: float) -> Message:
        """The next message of the line; takes the end of the run, and of the line, to heart. Raises `queue.Empty`."""
        line, message = self._inbox.get(timeout=patience)
        if line is self._line:
            if message["kind"] == "end":
                self._end, self._ended = message, time.monotonic()
            elif message["kind"] == LOST:
                self._lost = message["reason"]
            return message
        return {"kind": "stale"}

    def _prepare(self, line: Line, welcome: Message, folder: Path) -> None:
        """Makes ready, or says why that cannot be."""
        try:
            offer = offer_in(welcome, self._who)
            self._is_welcome = True
            self._number, line.silence = welcome["number"], offer.lost_after
            if self._job is None or offer != self._offer:
                self._job = job_told(self._repo, self._joining, offer, self._who, folder)
                self._offer = offer
        except GruError as error:
            line.send("refused", message=str(error))
            raise
        except BaseException as error:
            line.send("refused", message=f"{type(error).__name__}: {error}")
            raise
        self._watcher.waiting(
            f"node {self._number} is ready for the run {self._job.run} of {self._nodes.host}, from {self._job.source[:10]}"
        )
        line.send("ready", workers=self._job.recipe.launch.nproc)

    def _train(self, line: Line, told: Message) -> None:
        """One generation."""
        if self._job is None:
            raise no_node_0("that a generation begins, before it has said of what")
        generation = generation_in(told, self._nodes, self._number)
        start, round_end = beginning_in(told)
        job = replace(self._job, generation=generation, start=start, round_end=round_end)
        self._is_halted = False
        self._failure = None  # of a generation that node 0 went on from
        ended = follow_agent(job, self._watcher, lambda event: None, self._interrupts, self._command)
        failure = None
        if not (ended.halted or ended.killed) and ended.returncode != 0:
            failure = self._failed(job, ended)
        if not ended.killed:
            line.send("ended", index=generation.index, failure=failure)
        else:
            self._check_interrupts()

    def _command(self) -> Command:
        """Workers here leave with those of node 0, which is asked when the user wants to stop."""
        with contextlib.suppress(queue.Empty):
            self._is_halted = self._is_halted or self._next(POLL_SECONDS / 10)["kind"] == "halt"
        if self._interrupts.count and not self._has_left and self._line is not None:
            self._has_left = True
            self._watcher.stopping()
            self._line.send("leave")
        if self._end is not None:  # they leave by themselves, as those of node 0 have done
            return Command.HALT if time.monotonic() - self._ended > _LAST_STEPS else Command.GO
        return Command.HALT if self._is_halted or self._lost is not None else Command.GO

    def _failed(self, job: Job, ended: Ended) -> dict[str, Any]:
        """What node 0 is told of workers that failed here. Remembered, if it was their own fault."""
        cause = stall_cause(job, ended.stall) if ended.stall else find_cause(job, ended.returncode)
        own = ended.stall is not None or not is_loss(job)
        who = f"worker {cause.rank}: " if cause.rank is not None else ""
        if own:
            log = f"The log is {cause.log}. " if cause.log else ""
            self._failure = RunFailedError(
                f"node {self._number} failed: {who}{cause.message}",
                hint=f"{log}What the run made is on node 0: git gru runs",
            )
        return {"message": f"{who}{cause.message}", "hint": cause.hint, "own": own}

    def _outcome(self, end: Message) -> bool:
        if end.get("state") == "failed":
            raise self._failure or RunFailedError(
                f"the run has failed: {end.get('message')}", hint="What it made is on node 0: git gru runs"
            )
        return bool(end.get("state") == "finished")

    def _check_lost(self) -> None:
        """Raises `NodeLostError` when node 0 is lost, or what failed here before; `NoWelcomeError` if it was never there."""
        if self._lost is None or self._end is not None:
            return
        if not self._is_welcome:
            raise NoWelcomeError(
                f"node 0 at {self._nodes.host}:{self._nodes.port} was lost before it said what is trained, or is something "
                f"else ({self._lost})",
                hint="See what node 0 says. Where another program has that port, choose another --rdzv-endpoint on all nodes.",
            )
        run = f" of the run {self._job.run}" if self._job else ""
        resume = self._job.run if self._job else "RUN"
        raise self._failure or NodeLostError(
            f"node 0{run} was lost ({self._lost})",
            hint=f"What it has committed is there. Go on: there git gru train --resume {resume} --nnodes … with the options as "
            "before, and here the same command again.",
        )

    def _check_interrupts(self, *, allowed: int = 0) -> None:
        """Raises `WaitInterruptedError` when the user asked to stop more than `allowed` times."""
        if self._interrupts.count > allowed:
            who = f"node {self._number}" if self._number else "this node"
            raise WaitInterruptedError(f"{who} was stopped while node 0 or its run was waited for")
