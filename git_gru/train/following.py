"""The agent of this machine, from its start to its end: events, signs of life, what the user asks. Free of torch.

Whoever launches follows one: a run of one machine (`launch`), node 0 of several (`leading`), another node (`assisting`),
`reproduce`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import NamedTuple, Protocol

from git_gru.runs.metrics import Event, EventFollower
from git_gru.runs.record import RunRecord
from git_gru.train.heartbeat import Stall, StallWatch
from git_gru.train.interrupts import Interrupts
from git_gru.train.job import Job
from git_gru.train.processes import worker_threads

POLL_SECONDS = 0.1
KILL_AFTER_SECONDS = 3.0


class Watcher(Protocol):
    """Who wants to see a run as it goes; called in the launcher's thread."""

    def waiting(self, what: str) -> None:
        """The launcher waits for other machines; `what` is a sentence that says for which."""

    def started(self, record: RunRecord) -> None:
        """The workers are being started."""

    def event(self, event: Event) -> None:
        """Rank 0 wrote an event."""

    def stopping(self) -> None:
        """The user asked to stop (here, or by `git gru runs stop`); the workers finish their step and make a last commit."""


class Command(Enum):
    """What is to be done about the workers: nothing; let them leave after a step, for good or to come together anew; end them."""

    GO = auto()
    STOP = auto()
    PAUSE = auto()
    HALT = auto()


class Ended(NamedTuple):
    """How the agent ended: whether it was asked to stop, whether the user then had it killed, the worker that stood still,
    whether it was paused, and whether it was ended by `Command.HALT`.
    """

    returncode: int
    stopped: bool
    killed: bool
    stall: Stall | None
    paused: bool = False
    halted: bool = False


def by_user(job: Job, interrupts: Interrupts) -> Callable[[], Command]:
    """Commands for a run that its user alone stops, by Ctrl-C or `git gru runs stop`."""
    return lambda: Command.STOP if interrupts.count or job.stop.exists() else Command.GO


def follow_agent(
    job: Job,
    watcher: Watcher,
    take: Callable[[Event], None],
    interrupts: Interrupts,
    command: Callable[[], Command] | None = None,
    listener: socket.socket | None = None,
) -> Ended:
    """Starts the agent and waits until it ends; `take` sees every event before `watcher` does.

    `command` is asked again and again what to do, by default `by_user`; a second interrupt ends the workers at once.
    `listener` is where node 0's agent keeps the store.
    """
    command = command or by_user(job, interrupts)
    follower = EventFollower(job.events)
    follower.poll()  # what a resumed run has of the time before
    shutil.rmtree(job.heartbeats, ignore_errors=True)
    job.failures.unlink(missing_ok=True)
    job.pause.unlink(missing_ok=True)
    elsewhere = job.generation is not None and job.generation.count > 1
    stalls, stall = StallWatch(job.heartbeats, job.recipe.guard.stall, elsewhere=elsewhere), None
    stopped = paused = halted = False
    with _agent(job, listener) as agent:
        while True:
            ended = agent.poll() is not None  # before the events are read, so that none of the last is missed
            for event in follower.poll():
                take(event)
                watcher.event(event)
            if ended:
                break
            asked = command()
            if asked is Command.STOP and not stopped:
                stopped = True
                job.stop.touch()
                watcher.stopping()
            if asked is Command.PAUSE and not paused:
                paused = True
                job.pause.touch()
            halted = halted or asked is Command.HALT
            stall = stall or stalls.poll()
            if interrupts.count > 1 or stall is not None or halted:
                _end(agent)
            time.sleep(POLL_SECONDS)
        return Ended(
            agent.returncode, stopped or job.stop.exists(), interrupts.count > 1, stall, paused, halted
        )


@contextmanager
def _agent(job: Job, listener: socket.socket | None) -> Iterator["subprocess.Popen[bytes]"]:
    """The agent's process, which ends with this block whatever happens in it."""
    threads = worker_threads(job.recipe.launch)
    command = [
        sys.executable,
        "-P",
        "-m",
        "git_gru.train.agent",
        str(job.write()),
        str(threads),
        str(os.getpid()),
    ]
    passed = () if listener is None else (listener.fileno(),)
    with job.agent_log.open("ab") as log:
        agent = subprocess.Popen(
            [*command, *map(str, passed)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=job.folder,
            pass_fds=passed,
            start_new_session=True,
        )
        try:
            yield agent
        finally:
            _end(agent)


def _end(agent: "subprocess.Popen[bytes]") -> None:
    """Ends the agent, which ends its workers; by force after a while (the workers then end with it)."""
    if agent.poll() is None:
        agent.send_signal(signal.SIGINT)
        try:
            agent.wait(KILL_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()
