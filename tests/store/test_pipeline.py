"""Pipelines: in order, with a bounded number under way, and an error stops them without a deadlock."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from git_gru.store.pipeline import OrderedSink, ordered_map


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Gauge:
    """Counts items that were taken in and not yet given out."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()

    def change(self, by: int) -> None:
        with self.lock:
            self.now += by
            self.most = max(self.most, self.now)


def slow_first(n: int) -> int:
    time.sleep(0.002 if n % 5 == 0 else 0)
    return n * n


def test_map_keeps_the_order(pool: ThreadPoolExecutor) -> None:
    assert list(ordered_map(pool, slow_first, range(100), ahead=8)) == [n * n for n in range(100)]
    assert list(ordered_map(pool, slow_first, [], ahead=8)) == []
    assert list(ordered_map(pool, slow_first, range(3), ahead=1)) == [0, 1, 4]


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_map_takes_no_more_than_ahead(pool: ThreadPoolExecutor, ahead: int) -> None:
    gauge = Gauge()

    def items() -> Iterator[int]:
        for n in range(50):
            gauge.change(1)
            yield n

    for _ in ordered_map(pool, slow_first, items(), ahead=ahead):
        gauge.change(-1)
    assert gauge.most == ahead
    assert gauge.now == 0


def test_map_is_lazy(pool: ThreadPoolExecutor) -> None:
    taken: list[int] = []
    results = ordered_map(pool, slow_first, (taken.append(n) or n for n in range(1000)), ahead=4)
    assert taken == []
    assert next(results) == 0
    assert len(taken) == 4


def test_map_raises_in_its_place(pool: ThreadPoolExecutor) -> None:
    def work(n: int) -> int:
        if n == 7:
            raise KeyError(n)
        return n

    seen: list[int] = []
    with pytest.raises(KeyError):
        for n in ordered_map(pool, work, range(100), ahead=5):
            seen.append(n)
    assert seen == list(range(7))
    assert list(ordered_map(pool, work, range(3), ahead=5)) == [0, 1, 2], "the pool goes on working"


def test_map_can_be_left_early(pool: ThreadPoolExecutor) -> None:
    started: list[int] = []
    results = ordered_map(pool, lambda n: started.append(n) or n, range(1000), ahead=6)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(started) <= 6


def test_map_raises_what_the_items_raise(pool: ThreadPoolExecutor) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        list(ordered_map(pool, slow_first, items(), ahead=3))


def test_sink_keeps_the_order_and_uses_one_thread(pool: ThreadPoolExecutor) -> None:
    got: list[int] = []
    threads: set[int] = set()

    def take(n: int) -> None:
        threads.add(threading.get_ident())
        got.append(n)

    sink = OrderedSink(pool, take, ahead=3)
    for n in range(100):
        sink.submit(slow_first, n)
    sink.drain()
    assert got == [n * n for n in range(100)]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_sink_takes_no_more_than_ahead(pool: ThreadPoolExecutor, ahead: int) -> None:
    gauge = Gauge()

    def work(n: int) -> int:
        gauge.change(1)
        return slow_first(n)

    sink: OrderedSink[int] = OrderedSink(pool, lambda n: gauge.change(-1), ahead=ahead)
    for n in range(60):
        sink.submit(work, n)
    sink.drain()
    assert gauge.most <= ahead
    assert gauge.now == 0


def test_sink_can_be_drained_again_and_again(pool: ThreadPoolExecutor) -> None:
    got: list[int] = []
    sink = OrderedSink(pool, got.append, ahead=2)
    sink.drain()
    for n in range(3):
        sink.submit(slow_first, n)
        sink.drain()
        assert got == [k * k for k in range(n + 1)]
    sink.drain()


@pytest.mark.parametrize("where", ["work", "sink"])
def test_sink_raises_what_went_wrong_and_does_not_hang(pool: ThreadPoolExecutor, where: str) -> None:
    got: list[int] = []

    def work(n: int) -> int:
        if where == "work" and n == 5:
            raise ValueError("five")
        return n

    def take(n: int) -> None:
        if where == "sink" and n == 5:
            raise ValueError("five")
        got.append(n)

    sink = OrderedSink(pool, take, ahead=2)
    with pytest.raises(ValueError, match="five"):
        for n in range(1000):
            sink.submit(work, n)
        sink.drain()
    assert got == [0, 1, 2, 3, 4], "nothing behind the failure reaches the sink"
    with pytest.raises(ValueError, match="five"):
        sink.drain()
    sink.cancel()


def test_sink_can_be_cancelled_while_under_way(pool: ThreadPoolExecutor) -> None:
    release, got = threading.Event(), []

    def work(n: int) -> int:
        release.wait(10)
        return n

    sink = OrderedSink(pool, got.append, ahead=4)
    for n in range(4):
        sink.submit(work, n)
    threading.Timer(0.02, release.set).start()
    sink.cancel()
    assert got == []
    assert not any(thread.name == "gru-sink" for thread in threading.enumerate())
    sink.cancel()
