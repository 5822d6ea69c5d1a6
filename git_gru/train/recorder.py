"""Writing down what a run does, off the training path. Rank 0 has a recorder; the engine knows its Protocol only.

`CommitRecorder` takes a snapshot of the weights at a checkpoint (a copy, milliseconds) and leaves the rest to one thread:
encoding into the store, the commit on the run's branch, the event that tells of it. At most one checkpoint waits while
another is being committed; training waits before it takes a third one (none is ever dropped), and the time that it
lost so is in the event's `blocked_s`.

When a commit fails (disk full, the branch moved by someone else), the run stops: the next call raises the failure, and
nothing that was committed before is touched. Going on would spend hours on weights that nobody can keep.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

from git_gru.errors import RunFailedError
from git_gru.git.commits import commit_model
from git_gru.git.repository import Repository
from git_gru.runs.metrics import Event, EventWriter
from git_gru.runs.trailers import CheckpointInfo, checkpoint_message
from git_gru.store.ingest import ingest_tensors
from git_gru.train.architecture import metadata_of
from git_gru.train.job import Job
from git_gru.train.weights import TensorData

PENDING = 2
"""Checkpoints that may be in memory at once: one being committed, one waiting."""

Snapshot = Callable[[], list[TensorData]]


class CheckpointError(RunFailedError):
    """A checkpoint could not be committed."""


class Recorder(Protocol):
    """What the engine tells, on rank 0."""

    def event(self, event: Event) -> None:
        """Writes an event down. Raises when an earlier checkpoint failed."""

    def checkpoint(self, step: int, snapshot: Snapshot, metrics: Mapping[str, float]) -> None:
        """Takes a snapshot now and keeps it in time. Raises when an earlier checkpoint failed."""


class CommitRecorder:
    """Makes checkpoints commits. A context manager: leaving it waits until everything is committed."""

    def __init__(self, repo: Repository, job: Job, events: EventWriter) -> None:
        self._repo = repo
        self._job = job
        self._events = events
        self._last = job.source
        self._made = False
        self._failure: Exception | None = None
        self._failed_step = 0
        self._room = threading.Semaphore(PENDING)
        self._queue: queue.SimpleQueue[tuple[Event, list[TensorData]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="git-gru-committer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        self._events.close()
        if error is None:
            self._raise_failure()

    def event(self, event: Event) -> None:
        """Appends the event to the run's log."""
        self._raise_failure()
        try:
            self._events.write(event)
        except OSError as error:
            raise CheckpointError(f"the run's log cannot be written: {error.strerror}") from error

    def checkpoint(self, step: int, snapshot: Snapshot, metrics: Mapping[str, float]) -> None:
        """Copies the weights and hands them to the thread; waits when it is `PENDING` checkpoints behind."""
        start = time.monotonic()
        self._room.acquire()
        self._raise_failure()
        tensors = snapshot()
        blocked = round(time.monotonic() - start, 4)
        self._queue.put((Event(time=time.time(), step=step, validation=metrics, blocked_s=blocked), tensors))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            kept = (
                f"the last commit is {self._last[:10]}" if self._made else "nothing was committed before it"
            )
            raise CheckpointError(
                f"the checkpoint of step {self._failed_step} could not be committed: {self._failure}; {kept}"
            ) from self._failure

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            event, tensors = item
            try:
                if self._failure is None:
                    self._commit(event, tensors)
            except Exception as error:  # whatever it is, the training thread raises it as a CheckpointError
                self._failed_step, self._failure = event.step, error
            finally:
                self._room.release()

    def _commit(self, event: Event, tensors: list[TensorData]) -> None:
        """Stores the weights, commits them onto the run's branch, and tells of it."""
        recipe = self._job.recipe
        manifest = ingest_tensors(self._repo.store(), tensors, metadata_of(self._job.architecture))
        info = CheckpointInfo(
            run=self._job.run, step=event.step, metrics=event.validation, parent_model=self._job.parent_model
        )
        self._last = commit_model(
            self._repo,
            source_commit=self._job.source,
            path=recipe.model.path,
            manifest=manifest,
            message=checkpoint_message(info),
            parent=self._last,
            ref=self._job.ref,
            expected=self._last if self._made else None,
        )
        self._made = True
        self._events.write(replace(event, time=time.time(), commit=self._last))
