"""Pipelines over chunks: encoding and decoding on all cores, in order, with bounded queues.

Memory stays bounded by the number of chunks under way, whatever the model's size: a producer that runs ahead waits.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Self, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Task(Generic[Out]):
    """A piece of work handed to a pool."""

    def __init__(self, work: Callable[..., Out], arguments: tuple[Any, ...]) -> None:
        self._work: Callable[..., Out] | None = work
        self._arguments = arguments
        self._done = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    def result(self) -> Out:
        """Waits for the work and returns its value, or raises what it raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        value: Out = self._value
        return value

    def cancel(self) -> None:
        """Has the work left out if it has not begun."""
        self._work = None

    def run(self) -> None:
        """Does the work; for the pool's threads."""
        try:
            if (work := self._work) is not None:
                self._value = work(*self._arguments)
        except BaseException as error:  # handed to whoever asks for the result
            self._error = error
        finally:
            self._arguments = ()  # large buffers are not kept alive until the result is fetched
            self._done.set()


class Pool:
    """So many threads that do work in the order it comes.

    `concurrent.futures` does more, and importing it takes as long as adding ten megabytes: a filter starts on every `git add`.
    """

    def __init__(self, threads: int) -> None:
        self._queue: queue.SimpleQueue[Task[Any] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"gru-codec-{at}", daemon=True) for at in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[..., Out], *arguments: Any) -> Task[Out]:
        """Queues `work(*arguments)`."""
        task = Task(work, arguments)
        self._queue.put(task)
        return task

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """Waits for the work that is queued and ends the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            task.run()


def ordered_map(pool: Pool, work: Callable[[In], Out], items: Iterable[In], *, ahead: int) -> Iterator[Out]:
    """`work(item)` for each item, computed in the pool, yielded in order, at most `ahead` of them under way."""
    pending: deque[Task[Out]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for task in pending:
            task.cancel()


class OrderedSink(Generic[Out]):
    """Computes in a pool and hands the results to one `sink`, in the order of submission, on a thread of its own.

    At most `ahead` results are under way; `submit` waits for a place. An exception of the work or of the sink stops the sink
    and is raised by the next `submit` or by `drain`.
    """

    def __init__(self, pool: Pool, sink: Callable[[Out], None], *, ahead: int) -> None:
        self._pool = pool
        self._sink = sink
        self._places = threading.Semaphore(ahead)
        self._queue: queue.SimpleQueue[Task[Out] | None] = queue.SimpleQueue()
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
        while (task := self._queue.get()) is not None:
            try:
                result = task.result()
                if self._error is None:
                    self._sink(result)
            except BaseException as error:  # handed to the thread that submits
                self._error = self._error or error
            finally:
                self._places.release()


class _Cancelled(Exception):
    """Marks a sink that takes nothing more."""
