"""A small repository to train in: a text, a recipe for a tiny model, git-gru installed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.nodes.network import Link, Node, network

RECIPE = """
[model]
embedding = 8
hidden = 16

[data]
files = ["data/*.txt"]
window = 16
validation = 0.2

[train]
steps = 6
batch = 6
lr = 0.02
warmup = 2
checkpoint_every = 3
log_every = 2

[launch]
nproc = 2
threads = 1
"""


class Project:
    """A `Work` with data and a recipe committed; runs `git gru` and reads runs' results."""

    def __init__(self, work: Any) -> None:
        self.work = work
        self.git = work.git
        self.gru = work.gru

    def train(self, *args: str, status: int = 0) -> dict[str, Any]:
        """`git gru train ARGS --json`, which must exit with `status`; its JSON (empty when there is none)."""
        done = self.gru("train", *args, "--json")
        assert done.returncode == status, done.stderr.decode()
        return json.loads(done.stdout) if done.stdout else {}

    def refused(self, *args: str, status: int = 4) -> str:
        """`git gru ARGS`, which must fail with `status` and without a traceback; what it says."""
        done = self.gru(*args)
        said = done.stderr.decode()
        assert done.returncode == status, said
        assert "Traceback" not in said
        return said

    def start(self, *args: str) -> "subprocess.Popen[bytes]":
        """`git gru train ARGS` in the background, in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "git_gru", "train", *args],
            cwd=self.work.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ),
            start_new_session=True,
        )

    def digests(self, commits: list[str]) -> list[str]:
        """The digests of the models in `commits`."""
        return [
            json.loads(self.gru("ls", commit, "--json").stdout)["models"][0]["digest"] for commit in commits
        ]


@pytest.fixture
def new_network() -> Iterator[Callable[[int], Sequence[Node]]]:
    """`new_network(count)`: so many hosts at one switch, as network namespaces."""
    with contextlib.ExitStack() as stack:

        def make(count: int) -> Sequence[Node]:
            try:
                return stack.enter_context(network(count, Link()))
            except SystemExit as refused:
                pytest.skip(f"{refused}; the tests on the loopback interface run anyway")

        yield make


def wait_for(condition: Callable[[], object], *, seconds: float = 90) -> None:
    """Waits until `condition` is true; fails after `seconds` (far more than it should take)."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def workers_of(agent_parent: int) -> list[int]:
    """The process ids of the workers under the launcher `agent_parent` (Linux)."""
    return [
        pid
        for agent in _children(agent_parent)
        for pid in _children(agent)
        if b"git_gru.train.worker" in _line(pid)
    ]


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    return found


def _line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def text() -> bytes:
    """2,400 bytes with some order in them."""
    return b"".join(b"line %d is %d times as long\n" % (i % 17, i * i % 23) for i in range(100))[:2400]


@pytest.fixture
def project(repo: Any, text: bytes) -> Project:
    """The repository, everything committed."""
    repo.write("data/one.txt", text)
    repo.write("gru.toml", RECIPE.encode())
    repo.commit("data and recipe")
    return Project(repo)


@pytest.fixture
def waiting() -> Callable[..., None]:
    """`wait_for(condition, seconds=…)`."""
    return wait_for


@pytest.fixture
def workers() -> Callable[[int], list[int]]:
    """`workers_of(pid of the launcher)`."""
    return workers_of


@pytest.fixture
def interrupt() -> Callable[["subprocess.Popen[bytes]"], None]:
    """Sends a process a Ctrl-C."""

    def send(process: "subprocess.Popen[bytes]") -> None:
        process.send_signal(signal.SIGINT)

    return send
