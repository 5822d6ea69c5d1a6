"""Node 0's list of the nodes that have joined, and the line between two: real sockets on the loopback interface, no workers."""

import json
import os
import queue
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from git_gru.train.line import LOST, Line, Message
from git_gru.train.nodes import JoinError, Nodes, counts_of
from git_gru.train.roll import Member, Report, Roll

SILENCE = 3.0


class Caller:
    """Another node, as far as node 0 can see it."""

    def __init__(self, port: int, name: str, **hello: Any) -> None:
        self.inbox: queue.SimpleQueue[tuple[Line, Message]] = queue.SimpleQueue()
        self.line = Line(socket.create_connection(("127.0.0.1", port)), 30, self.inbox)
        self.line.send(
            "hello", **{"name": name, "address": "10.0.0.9", "number": None, "nnodes": "2:3"} | hello
        )

    def next(self) -> Message:
        return self.inbox.get(timeout=20)[1]


class Head:
    """A roll at a free port, with one worker on node 0 and a batch of four samples."""

    def __init__(self, stack: ExitStack, counts: str, silence: float) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        nodes = Nodes(
            counts=counts_of(counts), number=0, host="127.0.0.1", port=self.port, address="127.0.0.1"
        )
        self.roll = stack.enter_context(Roll(nodes, silence=silence, batch=4, workers=1))
        self.nodes = nodes

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end
            self.roll.poll()
            time.sleep(0.01)

    def member(self, number: int) -> Member:
        return next(one for one in self.roll.members if one.number == number)


@pytest.fixture
def head() -> Iterator[Callable[..., Head]]:
    with ExitStack() as stack:
        yield lambda counts="2:3", silence=30.0: Head(stack, counts, silence)


def ready(head: Head, name: str, workers: int = 1, **hello: Any) -> Caller:
    """A node that has joined and prepared itself."""
    before = len(head.roll.ready)
    caller = Caller(head.port, name, **hello)
    head.until(lambda: not caller.inbox.empty())
    assert caller.next()["kind"] == "welcome"
    caller.line.send("ready", workers=workers)
    head.until(lambda: len(head.roll.ready) > before or not caller.inbox.empty())
    return caller


def test_nodes_are_numbered_as_they_come_and_keep_their_numbers(head: Callable[..., Head]) -> None:
    it = head()
    early = Caller(it.port, "a")
    time.sleep(0.1)
    it.roll.poll()
    assert it.roll.members == [], "nobody is welcome before node 0 knows what is trained"
    it.roll.open({"run": "r"})
    it.until(lambda: not early.inbox.empty())
    assert early.next() == {"kind": "welcome", "run": "r", "number": 1}
    ready(it, "b")
    early.line.close()
    it.until(lambda: len(it.roll.members) == 1)
    ready(it, "c")
    ready(it, "a")
    assert {one.name: one.number for one in it.roll.members} == {"a": 1, "b": 2, "c": 3}
    assert [one.number for one in it.roll.ready] == [2, 3, 1]
    assert [one.number for one in it.roll.chosen] == [2, 3], "the third stands in for one that is lost"


def test_a_generation_and_what_its_nodes_say(head: Callable[..., Head]) -> None:
    it = head(silence=SILENCE)
    it.roll.open({})
    callers = [ready(it, name) for name in "ab"]
    own, others = it.roll.train(4, 1234, None)
    assert (own.index, own.rank, own.count, own.port) == (4, 0, 3, 1234)
    told = [caller.next() for caller in callers]
    assert [one["rank"] for one in told] == [1, 2]
    assert {one["port"] for one in told} == {1234}
    assert it.roll.training == others
    callers[0].line.send("ended", index=4, failure={"message": "m", "own": False, "hint": None})
    it.until(lambda: len(it.roll.training) == 1)
    assert it.member(1).failure == Report("m", own=False, hint=None)
    callers[1].line._over.set()  # a node that is cut off gives no sign of life, and its connection stays
    it.until(lambda: it.roll.losses)
    (loss,) = it.roll.losses
    assert loss.member.number == 2
    assert loss.reason == f"nothing was heard of it for {SILENCE:g} seconds (launch.lost_after)"
    assert [one.number for one in it.roll.ready] == [1]
    it.roll.halt()
    it.roll.end("finished", None)
    assert callers[0].next() == {"kind": "end", "state": "finished", "message": None}


def test_who_does_not_fit_is_refused_and_the_others_stay(head: Callable[..., Head]) -> None:
    it = head()
    it.roll.open({})
    ready(it, "a", workers=2)
    greedy = ready(it, "b", workers=2)
    assert (
        "would make 5 workers, and each needs a sample of train.batch, which is 4" in greedy.next()["message"]
    )
    fixed = Caller(it.port, "c", nnodes="2")
    it.until(lambda: not fixed.inbox.empty())
    assert fixed.next()["message"] == "--nnodes is 2 on c (10.0.0.9), and 2:3 on node 0"
    assert [one.name for one in it.roll.members] == ["a"]
    assert len(it.roll.told) == 2
    assert it.roll.refusal == it.roll.told[0]


def test_a_spare_node_may_have_as_many_workers_as_it_can_stand_in_with(head: Callable[..., Head]) -> None:
    it = head()
    it.roll.open({})
    callers = {name: ready(it, name) for name in "ab"}
    spare = ready(it, "c", workers=3)
    greedy = ready(it, "d", workers=4)
    assert "would make 5 workers, and each needs a sample" in greedy.next()["message"]
    assert spare.inbox.empty()
    assert [one.name for one in it.roll.ready] == ["a", "b", "c"]
    left = []
    for name in "ab":
        left.append([one.name for one in it.roll.chosen])
        callers[name].line.close()
        it.until(lambda name=name: all(one.name != name for one in it.roll.members))
    left.append([one.name for one in it.roll.chosen])
    assert left == [["a", "b"], ["b"], ["c"]], "never more workers than samples"


def test_a_connection_that_cannot_be_taken_is_taken_later(head: Callable[..., Head]) -> None:
    it = head()
    it.roll.open({})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as stranger:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))  # no file can be opened any more
        try:
            stranger.connect(("127.0.0.1", it.port))
            time.sleep(0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        ready(it, "a")


def test_a_fixed_number_of_nodes_have_numbers_of_their_own(head: Callable[..., Head]) -> None:
    it = head("3")
    it.roll.open({})
    ready(it, "a", nnodes="3", number=2)
    twice = Caller(it.port, "b", nnodes="3", number=2)
    it.until(lambda: not twice.inbox.empty())
    assert twice.next()["message"] == "b (10.0.0.9) asked to be node 2, and there is one already"
    ready(it, "b", nnodes="3", number=1)
    assert [one.name for one in it.roll.chosen] == ["b", "a"]


def test_a_port_in_use(head: Callable[..., Head]) -> None:
    it = head()
    with pytest.raises(JoinError, match="node 0 cannot listen at 127.0.0.1:.*in use"):
        Roll(it.nodes, silence=1, batch=1, workers=1)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x80\x04\x95\n",
        b"[]\n",
        b'{"kind": 1}\n',
        b'{"kind": "ready"}\n',
        b"[" * 9999 + b"\n",
    ],
)
def test_what_is_no_message_ends_the_connection_and_nothing_else(
    head: Callable[..., Head], said: bytes
) -> None:
    it = head()
    it.roll.open({})
    with socket.create_connection(("127.0.0.1", it.port)) as stranger:
        stranger.sendall(said)
        closed = threading.Event()

        def read() -> None:
            while stranger.recv(100).strip():
                pass
            closed.set()

        threading.Thread(target=read, daemon=True).start()
        it.until(closed.is_set)
    assert it.roll.members == []
    ready(it, "a")


def test_an_end_of_a_line_tells_why(head: Callable[..., Head]) -> None:
    ours, theirs = socket.socketpair()
    inbox: queue.SimpleQueue[tuple[Line, Message]] = queue.SimpleQueue()
    line = Line(ours, 30, inbox)
    theirs.sendall(json.dumps({"kind": "x", "of": "é"}).encode() + b"\n\n\n")
    theirs.sendall(b'{"kind": "lo')
    theirs.sendall(b'st"}\n{"kind": "y"}\n')
    theirs.close()
    got = [inbox.get(timeout=20) for _ in range(3)]
    assert [one for one, _ in got] == [line] * 3
    assert [message["kind"] for _, message in got] == ["x", "y", LOST]
    assert got[0][1]["of"] == "é"
    assert got[2][1]["reason"] == "the connection was closed"
