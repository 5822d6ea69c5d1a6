"""Node 0 while it waits for others: a real roll and real sockets, no workers."""

import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from git_gru.train import leading
from git_gru.train.following import Ended
from git_gru.train.interrupts import counted_interrupts
from git_gru.train.keeping import Keeper, first_record
from git_gru.train.launch import job_of
from git_gru.train.line import Line, Message
from git_gru.train.nodes import JoinError, Nodes, counts_of
from git_gru.train.plan import Request, make_plan


class Quiet:
    """A watcher that looks away."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *what: None


class Caller:
    """Another node, which joins at once, and is ready when it is told to be."""

    def __init__(self, port: int, name: str) -> None:
        self._inbox: queue.SimpleQueue[tuple[Line, Message]] = queue.SimpleQueue()
        self.line = Line(socket.create_connection(("127.0.0.1", port)), 30, self._inbox)
        self.line.send("hello", name=name, address="10.0.0.9", number=None, nnodes="2:3")

    def ready(self) -> float:
        """When it was ready, on the monotonic clock."""
        assert self._inbox.get(timeout=20)[1]["kind"] == "welcome"
        now = time.monotonic()
        self.line.send("ready", workers=1)
        return now


def lead(project: Any, words: tuple[str, ...], others: Callable[[int], None]) -> None:
    """Leads a run of `2:3` nodes with `--set WORDS`, while `others` does what it does at node 0's port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nodes = Nodes(counts=counts_of("2:3"), number=0, host="127.0.0.1", port=port, address="127.0.0.1")
    repo = project.work.repository
    plan = make_plan(repo, Request(nodes=nodes, overrides=words, nproc=1))
    job = job_of(repo, plan)
    keeper = Keeper(repo, job, first_record(plan), None)
    with leading.calling(plan, nodes) as roll, counted_interrupts() as interrupts:
        thread = threading.Thread(target=others, args=(port,), daemon=True)
        thread.start()
        leading.lead(repo, job, plan, nodes, roll, keeper, Quiet(), interrupts)
        thread.join()


def test_a_node_that_is_still_fetching_is_named(project: Any) -> None:
    callers = []
    with pytest.raises(JoinError) as caught:
        lead(project, ("launch.join_timeout=1",), lambda port: callers.append(Caller(port, "slow")))
    assert str(caught.value) == (
        "only 1 of at least 2 nodes came within 1 seconds (launch.join_timeout): node 0; "
        "still fetching the commit or preparing its data: node 1 (slow, 10.0.0.9)"
    )


def test_more_nodes_are_waited_for_since_enough_are_there_not_since_they_were_before(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ready = [], []

    def follow(*given: Any) -> Ended:
        began.append(time.monotonic())
        return Ended(0, False, False, None)

    def others(port: int) -> None:
        first = Caller(port, "first")
        first.ready()
        time.sleep(0.5)
        first.line.close()
        time.sleep(0.5)
        ready.append(Caller(port, "second").ready())

    monkeypatch.setattr(leading, "follow_agent", follow)
    lead(project, ("launch.last_call=1.2",), others)
    assert began[0] - ready[0] >= 1.2
