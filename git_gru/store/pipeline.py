"""Pipelines over chunks: encoding and decoding on all cores, in order, with bounded queues.

Memory stays bounded by the number of chunks under way, whatever the model's size: a producer that runs ahead waits.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def ordered_map(
    pool: ThreadPoolExecutor, work: Callable[[In], Out], items: Iterable[In], *, ahead: int
) -> Iterator[Out]:
    """`work(item)` for each item, computed in the pool, yielded in order, at most `ahead` of them under way."""
    pending: deque[Future[Out]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


class OrderedSink(Generic[Out]):
    """Computes in a pool and hands the results to one `sink`, in the order of submission, on a thread of its own.

    At most `ahead` results are under way; `submit` waits for a place. An exception of the work or of the sink stops the sink
    and is raised by the next `submit` or by `drain`.
    """

    def __init__(self, pool: ThreadPoolExecutor, sink: Callable[[Out], None], *, ahead: int) -> None:
        self._pool = pool
        self._sink = sink
        self._places = threading.Semaphore(ahead)
        self._queue: queue.SimpleQueue[Future[Out] | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[..., Out], *arguments: Any) -> None:
        """Queues `work(*arguments)`; its result goes to the sink."""
        self._raise()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gru-sink", daemon=True)
            self._thread.start()
        self._places.acquire()
        self._queue.put(self._pool.submit(work, *arguments))

    def drain(self) -> None:
        """Waits until everything submitted has reached the sink. Raises what went wrong."""
        self._stop()
        self._raise()

    def cancel(self) -> None:
        """Waits for what is under way and forgets what went wrong."""
        self._error = self._error or _Cancelled()
        self._stop()

    def _stop(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (future := self._queue.get()) is not None:
            try:
                result = future.result()
                if self._error is None:
                    self._sink(result)
            except BaseException as error:  # handed to the thread that submits
                self._error = self._error or error
            finally:
                self._places.release()


class _Cancelled(Exception):
    """Marks a sink that takes nothing more."""
