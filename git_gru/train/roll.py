"""The nodes that have joined a run, as node 0's launcher knows them, and what it tells them. Free of torch.

    hello ──> CALLED ──ready──> READY ──train──> TRAINING ──ended──> READY        lost, or refused, from anywhere: gone

A thread takes connections at the run's endpoint from the beginning on; who comes before node 0 has prepared its data waits.
Everything else happens in `poll`, in the launcher's thread.
"""

import queue
import socket
import threading
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Self

from git_gru.train.job import Start
from git_gru.train.line import LOST, Line, Message
from git_gru.train.nodes import Generation, JoinError, Nodes

_GOODBYE = 2.0
"""Seconds for which nodes that were told of the end are waited for, so that it reaches them."""
_PAUSE = 0.1
"""Seconds until a connection is taken again after one could not be."""


class Standing(Enum):
    """Where a node is; see the module's diagram."""

    CALLED = auto()
    READY = auto()
    TRAINING = auto()


@dataclass(frozen=True)
class Report:
    """What a node says of workers that failed there: a sentence, whether one failed by itself, what that mostly comes from."""

    message: str
    own: bool
    hint: str | None


@dataclass(eq=False)
class Member:
    """A node that has joined. `failure` is what its workers of the last generation ended with, if not well."""

    line: Line
    number: int
    name: str
    address: str
    standing: Standing = Standing.CALLED
    since: float = 0.0
    """When it became ready."""
    workers: int = 0
    is_leaving: bool = False
    failure: Report | None = None

    def __str__(self) -> str:
        return f"node {self.number} ({self.name}, {self.address})"


@dataclass(frozen=True)
class Loss:
    """A member that was lost while it trained: why, and when the last sign of life came."""

    member: Member
    reason: str
    heard: float


class Roll:
    """Listens at the endpoint of `nodes`; a node that is not heard of for `silence` seconds is lost. A context manager.

    Raises `JoinError` where that is not possible.
    """

    def __init__(self, nodes: Nodes, *, silence: float, batch: int, workers: int) -> None:
        self._nodes, self._silence = nodes, silence
        self._batch, self._workers = batch, workers
        self._offer: Message | None = None
        self._is_closed = threading.Event()
        self._inbox: queue.SimpleQueue[tuple[Line, Message]] = queue.SimpleQueue()
        self._numbers: dict[tuple[str, str], int] = {}
        self.members: list[Member] = []
        self.losses: list[Loss] = []
        """Of this generation."""
        self.told: list[str] = []
        """What the user shall know of nodes that could not take part; whoever tells it takes it away."""
        self.refusal: str | None = None
        """Why the first node that cannot take part cannot."""
        try:
            self._listener = socket.create_server((nodes.host, nodes.port))
        except OSError as error:
            raise JoinError(
                f"node 0 cannot listen at {nodes.host}:{nodes.port}: {error.strerror or error}",
                hint="Another program may have the port, or the address is not this machine's: choose another --rdzv-endpoint.",
            ) from error
        threading.Thread(target=self._accept, name="git-gru-roll", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._is_closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits there
        self._listener.close()
        for member in self.members:
            member.line.close()

    def open(self, offer: Message) -> None:
        """From now on nodes are told what the run is; `offer` is the welcome but for the node's number."""
        self._offer = offer

    @property
    def ready(self) -> list[Member]:
        """Who trains or could train now, and wants to: those that train come first."""
        able = [one for one in self.members if one.standing is not Standing.CALLED and not one.is_leaving]
        return sorted(able, key=lambda one: one.standing is Standing.READY)

    @property
    def chosen(self) -> list[Member]:
        """Those of them that the next generation will have: as many as may be, and as have a sample for each worker."""
        found: list[Member] = []
        workers = self._workers
        for one in self.ready:
            if len(found) < self._nodes.counts.most - 1 and workers + one.workers <= self._batch:
                found.append(one)
                workers += one.workers
        return sorted(found, key=lambda one: one.number)

    @property
    def preparing(self) -> list[Member]:
        """Who has been told what is trained, and is fetching or preparing it."""
        return [one for one in self.members if one.standing is Standing.CALLED]

    @property
    def training(self) -> list[Member]:
        """Whose workers are there."""
        return [one for one in self.members if one.standing is Standing.TRAINING]

    def poll(self) -> None:
        """Takes all that the nodes have said meanwhile."""
        if self._offer is None:
            return
        while not self._inbox.empty():
            line, message = self._inbox.get()
            member = next((one for one in self.members if one.line is line), None)
            if member is not None:
                try:
                    self._heard(member, message)
                except (ValueError, TypeError, KeyError):  # no message of git-gru's
                    line.close()
            elif message["kind"] == "hello":
                self._welcome(line, message)
            elif message["kind"] != LOST:
                line.close()

    def train(
        self, index: int, port: int, start: Start | None, round_end: int | None = None
    ) -> tuple[Generation, list[Member]]:
        """Has all that are ready begin a generation, whose store is at `port`; gives node 0's part of it, and the others.

        `start` and `round_end` are the job's (`git_gru.train.job`).
        """
        self.losses = []
        chosen = self.chosen
        count = len(chosen) + 1
        for rank, member in enumerate(chosen, 1):
            member.standing, member.failure = Standing.TRAINING, None
            at = None if start is None else {"step": start.step, "commit": start.commit, "state": start.state}
            member.line.send(
                "train", index=index, rank=rank, count=count, port=port, start=at, round_end=round_end
            )
        host = self._nodes.host
        own = Generation(
            index=index, node=0, rank=0, count=count, host=host, port=port, address=self._nodes.address
        )
        return own, chosen

    def halt(self) -> None:
        """Has the workers of all nodes ended at once."""
        for member in self.training:
            member.line.send("halt")

    def dismiss(self, member: Member, state: str, message: str | None = None) -> None:
        """Tells a node that the run is over for it."""
        member.line.send("end", state=state, message=message)

    def end(self, state: str, message: str | None) -> None:
        """Tells all nodes that the run is over, and waits until they know."""
        for member in self.members:
            self.dismiss(member, state, message)
        until = time.monotonic() + _GOODBYE
        while self.members and time.monotonic() < until:
            self.poll()
            time.sleep(0.02)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:  # one connection's trouble, or too many open files: others come
                if self._is_closed.wait(_PAUSE):
                    return
                continue
            Line(connection, self._silence, self._inbox)

    def _welcome(self, line: Line, hello: Message) -> None:
        name, address = str(hello.get("name")), str(hello.get("address"))
        asked, who = hello.get("number"), (name, address)
        counts = self._nodes.counts
        if hello.get("nnodes") != str(counts) and not (counts.is_elastic and ":" in str(hello.get("nnodes"))):
            text = f"--nnodes is {hello.get('nnodes')} on {name} ({address}), and {counts} on node 0"
            return self._refuse(line, text)
        taken = {one.number for one in self.members}
        if counts.is_elastic:
            before = self._numbers.get(who)
            fresh = max((0, *self._numbers.values())) + 1
            number = fresh if before is None or before in taken else before
        elif not isinstance(asked, int) or asked in taken:
            text = f"{name} ({address}) asked to be node {asked}, and there is one already"
            return self._refuse(line, text)
        else:
            number = asked
        self._numbers[who] = number
        self.members.append(Member(line, number, name, address))
        line.send("welcome", **(self._offer or {}), number=number)
        return None

    def _refuse(self, line: Line, message: str) -> None:
        line.send("refused", message=message)
        self.told.append(message)
        self.refusal = self.refusal or message

    def _heard(self, member: Member, message: Message) -> None:
        kind = message["kind"]
        if kind == "ready":
            member.workers = int(message.get("workers", 1))
            if member.workers < 1:
                raise ValueError("no workers")
            if (workers := self._workers_with(member)) > self._batch:
                self.members.remove(member)
                self._refuse(member.line, self._too_many(member, workers))
                return
            member.standing, member.since = Standing.READY, time.monotonic()
        elif kind == "ended" and member.standing is Standing.TRAINING:
            member.failure = _report(message.get("failure"))
            member.standing, member.since = Standing.READY, time.monotonic()
        elif kind == "leave":
            member.is_leaving = True
        elif kind == "refused":
            self.members.remove(member)
            self._refuse(member.line, f"{member} cannot take part: {message.get('message')}")
        elif kind == LOST:
            self.members.remove(member)
            if member.standing is Standing.TRAINING:
                self.losses.append(Loss(member, str(message["reason"]), member.line.heard))

    def _workers_with(self, member: Member) -> int:
        """How many workers there would be with a node; with one that is more than may be, if all others had left."""
        chosen = self.chosen
        is_spare = len(chosen) >= self._nodes.counts.most - 1
        others = 0 if is_spare else sum(one.workers for one in chosen)
        return self._workers + others + member.workers

    def _too_many(self, member: Member, workers: int) -> str:
        return f"{member} would make {workers} workers, and each needs a sample of train.batch, which is {self._batch}"


def _report(failure: Any) -> Report | None:
    if failure is None:
        return None
    hint = failure["hint"]
    return Report(str(failure["message"]), bool(failure["own"]), None if hint is None else str(hint))
