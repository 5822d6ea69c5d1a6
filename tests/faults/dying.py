"""A process that is killed at a chosen step of its own. For tests alone: nothing in git_gru knows of it.

A *step* is a call by which Python code changes something outside of its process (writes, renames, deletes, locks, asks SQLite or
starts a program), in any thread; they are counted from 1. `attempt` runs a function in a process of its own, which dies by
SIGKILL as it is about to take step n, with all the programs that it has started. Running it for n = 1, 2, 3 … until it no longer
dies has stopped it everywhere.
"""

import _posixsubprocess
import fcntl
import io
import itertools
import multiprocessing
import os
import signal
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

_FUNCTIONS = frozenset(
    [
        *(os.fsync, os.write, os.writev, os.pwrite, os.ftruncate, os.utime, os.chmod),
        *(os.mkdir, os.rmdir, os.rename, os.replace, os.link, os.unlink, os.remove),
        *(fcntl.flock, _posixsubprocess.fork_exec),
    ]
)
_METHODS = {"write": io.IOBase, "execute": sqlite3.Connection, "executemany": sqlite3.Connection}

_PRELOADED = [
    "__main__",
    "git_gru.git.git_remote",
    "git_gru.git.worktree_models",
    "git_gru.store.bring",
    "git_gru.store.collect",
    "git_gru.store.lookup",
    "git_gru.store.publish",
    "git_gru.store.repack",
    "numpy",
    "pygit2",
    "tests.faults.operations",
]


class Steps:
    """Counts the steps of this process, and kills it at step `last`, with what it has started or `alone`."""

    def __init__(self, last: int | None, *, alone: bool = False) -> None:
        self.taken = 0
        self._last = last
        self._kill = (lambda: os.kill(os.getpid(), signal.SIGKILL)) if alone else _kill_group
        self._numbers = itertools.count(1)
        self._recent = ("", "")

    def __enter__(self) -> "Steps":
        threading.setprofile(self._look)
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _look(self, frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and _is_step(function):
            name, recent = function.__name__, self._recent
            self._recent = (recent[1], name)
            if recent == (name, name):
                return
            self.taken = next(self._numbers)
            if self.taken == self._last:
                self._kill()


def _kill_group() -> None:
    os.killpg(0, signal.SIGKILL)


def _is_step(function: Any) -> bool:
    kind = _METHODS.get(function.__name__)
    return isinstance(function.__self__, kind) if kind else function in _FUNCTIONS


@dataclass(frozen=True)
class Attempt:
    """How it ended: killed, or after so many steps."""

    died: bool
    steps: int


def attempt(
    work: Callable[..., object], *arguments: object, die_at: int | None = None, alone: bool = False
) -> Attempt:
    """Runs `work(*arguments)` in a new process, and kills that at step `die_at`. Raises AssertionError for an exception there.

    `alone` lets the programs live that it has started.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, arguments, die_at, alone, dict(os.environ), theirs))
    process.start()
    theirs.close()
    with ours:
        try:
            told = ours.recv()
        except EOFError:
            told = None
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return Attempt(died=True, steps=die_at or 0)
    assert isinstance(told, int), told
    return Attempt(died=False, steps=told)


def _run(
    work: Callable[..., object],
    arguments: tuple[object, ...],
    die_at: int | None,
    alone: bool,
    environment: Mapping[str, str],
    report: Connection,
) -> None:
    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(environment)
    try:
        with Steps(die_at, alone=alone) as steps:
            work(*arguments)
        report.send(steps.taken)
    except BaseException:
        report.send(traceback.format_exc())
