"""Ranks as threads: collectives of a few lines, for tests of what is computed between them."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")


class Meeting:
    """What threads that are ranks meet at."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._barrier = threading.Barrier(size, timeout=30)
        self._brought: list[Any] = [None] * size

    def exchange(self, rank: int, value: Any) -> list[Any]:
        """Brings a value; takes all ranks' along."""
        self._brought[rank] = value.clone()
        self._barrier.wait()
        taken = list(self._brought)
        self._barrier.wait()
        return taken


class ThreadWire:
    """Stands in for `Wire`."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self._meeting, self.rank, self.size = meeting, rank, meeting.size

    def add_up(self, vector: Any) -> None:
        vector.copy_(sum(self._meeting.exchange(self.rank, vector)))

    def scatter(self, parts: Any) -> Any:
        return torch.stack([parts[self.rank] for parts in self._meeting.exchange(self.rank, parts)])

    def gather(self, part: Any) -> Any:
        return torch.stack(self._meeting.exchange(self.rank, part))


@pytest.fixture
def on_ranks() -> Callable[..., list[Any]]:
    """`on_ranks(size, work)`: what `work(wire)` gives on each rank, by rank."""

    def run(size: int, work: Callable[[Any], Any]) -> list[Any]:
        meeting, found = Meeting(size), [None] * size

        def one(rank: int) -> None:
            found[rank] = work(ThreadWire(meeting, rank))

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert None not in found
        return found

    return run
