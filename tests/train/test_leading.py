"""Node 0 while it waits for others: a real roll and real sockets, no workers."""

import queue
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from git_gru.train import leading
from git_gru.train.assisting import assist
from git_gru.train.following import Ended
from git_gru.train.interrupts import counted_interrupts
from git_gru.train.keeping import Keeper, first_record
from git_gru.train.launch import job_of
from git_gru.train.line import Line, Message
from git_gru.train.nodes import JoinError, Nodes, counts_of
from git_gru.train.plan import Request, make_plan
from git_gru.train.welcome import DisagreementError, Joining, versions, welcome_of


class Quiet:
    """A watcher that looks away."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *what: None


class Caller:
    """Another node, which joins at once, and is ready when it is told to be."""

    def __init__(self, port: int, name: str) -> None:
        self.inbox: queue.SimpleQueue[tuple[Line, Message]] = queue.SimpleQueue()
        self.line = Line(socket.create_connection(("127.0.0.1", port)), 30, self.inbox)
        self.line.send("hello", name=name, address="10.0.0.9", number=None, nnodes="2:3")

    def ready(self) -> float:
        """When it was ready, on the monotonic clock."""
        assert self.inbox.get(timeout=20)[1]["kind"] == "welcome"
        now = time.monotonic()
        self.line.send("ready", workers=1)
        return now


def lead(project: Any, words: tuple[str, ...], others: Callable[[int], None], *, nnodes: str = "2:3") -> None:
    """Leads a run of several nodes with `--set WORDS`, while `others` does what it does at node 0's port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nodes = Nodes(counts=counts_of(nnodes), number=0, host="127.0.0.1", port=port, address="127.0.0.1")
    repo = project.work.repository
    plan = make_plan(repo, Request(nodes=nodes, overrides=words, nproc=1))
    job = job_of(repo, plan)
    keeper = Keeper(repo, job, first_record(plan), None)
    with leading.calling(plan, nodes) as roll, counted_interrupts() as interrupts:
        thread = threading.Thread(target=others, args=(port,), daemon=True)
        thread.start()
        try:
            leading.lead(repo, job, plan, nodes, roll, keeper, Quiet(), interrupts)
        finally:
            thread.join()


def test_a_node_that_is_still_fetching_is_named(project: Any) -> None:
    callers: list[Caller] = []
    with pytest.raises(JoinError) as caught:
        lead(project, ("launch.join_timeout=1",), lambda port: callers.append(Caller(port, "slow")))
    assert str(caught.value) == (
        "only 1 of at least 2 nodes came within 1 seconds (launch.join_timeout): node 0; "
        "still fetching the commit or preparing its data: node 1 (slow, 10.0.0.9)"
    )
    heard = [callers[0].inbox.get(timeout=20)[1] for _ in range(2)]
    assert heard[1] == {"kind": "end", "state": "failed", "message": str(caught.value)}, "it is told, too"


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


@pytest.mark.parametrize("name", ["git-gru", "torch"])
def test_another_version_is_named_on_both_nodes(
    project: Any, tmp_path: Path, at: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    project.work.run("git", "clone", "-q", str(project.work.path), str(tmp_path / "node-1"))
    other = versions() | {name: "0.0.1"}
    monkeypatch.setattr(leading, "welcome_of", lambda *given: welcome_of(*given) | {"versions": other})
    refused = []

    def join(port: int) -> None:
        nodes = Nodes(counts=counts_of("2"), number=1, host="127.0.0.1", port=port, address="127.0.0.1")
        with pytest.raises(DisagreementError) as caught:
            assist(at(tmp_path / "node-1").repository, Joining(nodes=nodes), Quiet())
        refused.append(str(caught.value))

    with pytest.raises(JoinError) as caught:
        lead(project, (), join, nnodes="2")
    here = f"{socket.gethostname()} (127.0.0.1)"
    assert refused == [f"the version of {name} on {here} is {versions()[name]}, and on node 0 0.0.1"]
    assert str(caught.value) == f"node 1 ({socket.gethostname()}, 127.0.0.1) cannot take part: {refused[0]}"
