"""Writing down what a run does, off the training path. Rank 0 has a recorder; the engine knows its Protocol only. Free of torch.

`CommitRecorder` takes a snapshot of the weights and of the resume state at a checkpoint (a copy, milliseconds) and leaves the
rest to one thread: encoding into the store, the commit on the run's branch and the resume state beside it, the event that tells
of it. At most one checkpoint waits while another is being committed; training waits before it takes a third one (none is ever
dropped), and the time that it lost so is in the event's `blocked_s`.

Two things that go wrong do not stop a run, and are told in the event log. While the disk is full, checkpoints are left out, and
each next one is tried; only a run whose last one is missing has failed. When somebody else has moved the branch, it is left
alone, and commits go to a new one beside it (`NAME-2`), after the last that was made.

When a commit fails for another reason, the run stops: the next call raises the failure, and nothing that was committed before
is touched. Going on would spend hours on weights that nobody can keep.
"""

import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from git_gru.errors import RunFailedError
from git_gru.git.commits import RefMovedError, build_commit, free_branch, move_ref
from git_gru.git.repository import Repository
from git_gru.git.run_states import keep_state
from git_gru.runs.metrics import Event, EventWriter
from git_gru.runs.trailers import CheckpointInfo, SiteRound, checkpoint_message
from git_gru.store.ingest import ingest_tensors
from git_gru.train.architecture import metadata_of
from git_gru.train.job import Job

if TYPE_CHECKING:
    from git_gru.train.weights import TensorData

PENDING = 2
"""Checkpoints that may be in memory at once: one being committed, one waiting."""

_HEADS = "refs/heads/"
_FULL = re.compile(r"No space left on device|[Dd]isk quota exceeded|disk is full")

Snapshot = Callable[[], "list[TensorData]"]


class CheckpointError(RunFailedError):
    """A checkpoint could not be committed."""


class Recorder(Protocol):
    """What the engine tells, on rank 0."""

    def event(self, event: Event) -> None:
        """Writes an event down. Raises when an earlier checkpoint failed."""

    def checkpoint(
        self, step: int, snapshot: Snapshot, metrics: Mapping[str, float], state: Snapshot | None = None
    ) -> None:
        """Takes snapshots of the weights and of the resume state now and keeps them in time.

        Raises when an earlier checkpoint failed, and what a snapshot raises: nothing is kept then.
        """

    def settle(self) -> str | None:
        """Waits until every checkpoint is committed; the id of the newest's commit, None where a full disk has no room for it.

        Raises when one failed.
        """

    def go_on_from(self, commit: str, round: int) -> None:
        """The next checkpoint follows on `commit`, a merge that has `round` rounds behind it, and not on the one before."""

    def end_at(self, commit: str) -> None:
        """Moves the run's branch on to its last commit, a merge."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where a run's checkpoints go: onto the branch `ref` (full name), each with the tree of the commit `source`, in which only
    the model at `path` is another.

    `metadata` stands in the model files. `last` is the checkpoint that the run goes on from, None for the source itself; every
    `resume_every`-th resume state is kept for good (`git_gru.git.run_states`). Of a site that trains with others
    `rounds` says how it counts.
    """

    run: str
    source: str
    ref: str
    path: str
    metadata: Mapping[str, str]
    parent_model: str | None
    last: str | None = None
    resume_every: int = 0
    rounds: "Rounds | None" = None


@dataclass
class Rounds:
    """How a site counts: `round` and `step` are those of the commit that its next checkpoint follows on."""

    site: str
    batch: int
    round: int
    step: int

    def next(self, step: int) -> SiteRound:
        """The part that the checkpoint after `step` has."""
        return SiteRound(site=self.site, round=self.round + 1, samples=(step - self.step) * self.batch)


def destination_of(job: Job) -> Destination:
    """Where the checkpoints of a job go."""
    return Destination(
        run=job.run,
        source=job.source,
        ref=job.ref,
        path=job.recipe.model.path,
        metadata=metadata_of(job.architecture),
        parent_model=job.parent_model,
        last=job.start.commit if job.start else None,
        resume_every=job.recipe.train.resume_every,
        rounds=Rounds(
            site=job.recipe.sync.site,
            batch=job.recipe.train.batch,
            round=job.round,
            step=job.start.step if job.start else 0,
        )
        if job.recipe.sync.is_git
        else None,
    )


@dataclass(frozen=True)
class _Pending:
    """A checkpoint that is to be committed."""

    event: Event
    weights: "list[TensorData]"
    state: "list[TensorData] | None"


class CommitRecorder:
    """Makes checkpoints commits. A context manager: leaving it waits until everything is committed.

    `committed` is told, in the committing thread, of each event that carries a commit, after it is in the log.
    """

    def __init__(
        self,
        repo: Repository,
        destination: Destination,
        events: EventWriter,
        committed: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._repo = repo
        self._destination = destination
        self._events = events
        self._committed = committed
        self._last = destination.last or destination.source
        self._parent = self._last
        self._made = destination.last is not None
        self._failed: tuple[int, Exception] | None = None
        self._left_out: tuple[int, Exception] | None = None
        self._untold: list[Event] = []
        self._room = threading.Semaphore(PENDING)
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="git-gru-committer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        self._tell()
        self._events.close()
        if error is None:
            self._raise(self._failed or self._left_out)

    def event(self, event: Event) -> None:
        """Appends the event to the run's log; on a full disk, lines of it are missing."""
        self._raise(self._failed)
        try:
            self._events.write(event)
        except OSError as error:
            if not is_full(error):
                raise CheckpointError(f"the run's log cannot be written: {error.strerror}") from error

    def checkpoint(
        self, step: int, snapshot: Snapshot, metrics: Mapping[str, float], state: Snapshot | None = None
    ) -> None:
        """Copies the weights and the resume state and hands them to the thread; waits when it is `PENDING` checkpoints behind."""
        start = time.monotonic()
        self._room.acquire()
        try:
            self._raise(self._failed)
            weights, rest = snapshot(), state() if state is not None else None
        except BaseException:
            self._room.release()
            raise
        blocked = round(time.monotonic() - start, 4)
        event = Event(time=time.time(), step=step, validation=metrics, blocked_s=blocked)
        self._queue.put(_Pending(event, weights, rest))

    def wait(self) -> str | None:
        """Waits until every checkpoint is committed; the id of the last, None without any. Raises as `checkpoint` does."""
        for _ in range(PENDING):
            self._room.acquire()
        for _ in range(PENDING):
            self._room.release()
        self._raise(self._failed or self._left_out)
        return self._last if self._made else None

    def settle(self) -> str | None:
        """See `Recorder`."""
        try:
            return self.wait()
        except CheckpointError:
            if self._failed is not None:
                raise
            return None

    def go_on_from(self, commit: str, round: int) -> None:
        """See `Recorder`; nothing is being committed meanwhile (`settle`)."""
        self._parent = commit
        if self._destination.rounds is not None:
            self._destination.rounds.round = round

    def end_at(self, commit: str) -> None:
        """See `Recorder`; nothing is being committed meanwhile (`settle`)."""
        self._advance(commit, "sync: the last merge")
        self._last = commit

    def _raise(self, failed: tuple[int, Exception] | None) -> None:
        if failed is not None:
            step, error = failed
            kept = (
                f"the last commit is {self._last[:10]}" if self._made else "nothing was committed before it"
            )
            raise CheckpointError(
                f"the checkpoint of step {step} could not be committed: {error}; {kept}"
            ) from error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            step = item.event.step
            try:
                if self._failed is None:
                    self._commit(item)
                    self._pause(None)
            except Exception as error:  # whatever it is, the training thread raises it as a CheckpointError
                if is_full(error):
                    self._pause((step, error))
                else:
                    self._failed = step, error
            finally:
                self._room.release()

    def _pause(self, left_out: tuple[int, Exception] | None) -> None:
        """Remembers the checkpoint that a full disk has just kept from being committed, or that one was committed again."""
        before, self._left_out = self._left_out, left_out
        if left_out is not None and before is None:
            step, error = left_out
            self._say(
                step,
                f"the checkpoint of step {step} is not committed: {error}; the run goes on and tries the next",
            )
        elif left_out is None and before is not None:
            self._say(before[0], "checkpoints are committed again")

    def _say(self, step: int, message: str) -> None:
        self._tell(Event(time=time.time(), step=step, message=message))

    def _tell(self, *events: Event) -> None:
        """Writes events down that must not be missing: on a full disk they wait for the next ones."""
        self._untold += events
        while self._untold:
            try:
                self._events.write(self._untold[0])
            except OSError as error:
                if is_full(error):
                    return
                raise
            self._untold.pop(0)

    def _commit(self, item: "_Pending") -> None:
        """Stores the weights, commits them onto the run's branch, and tells of it."""
        to, event = self._destination, item.event
        store = self._repo.store()
        manifest = ingest_tensors(store, item.weights, to.metadata)
        state = None if item.state is None else ingest_tensors(store, item.state, {"format": "pt"})
        info = CheckpointInfo(
            run=to.run,
            step=event.step,
            metrics=event.validation,
            parent_model=to.parent_model,
            resume=None if state is None else state.digest,
            site=None if to.rounds is None else to.rounds.next(event.step),
        )
        message = checkpoint_message(info)
        commit = build_commit(
            self._repo,
            source_commit=to.source,
            path=to.path,
            manifest=manifest,
            message=message,
            parent=self._parent,
        )
        if state is not None:  # before the branch: see git_gru.git.run_states
            keep_state(
                self._repo, to.run, checkpoint=commit, step=event.step, state=state, every=to.resume_every
            )
        branch = self._advance(commit, message)
        self._last, self._parent, self._made = commit, commit, True
        if to.rounds is not None and info.site is not None:
            to.rounds.round, to.rounds.step = info.site.round, event.step
        made = replace(event, time=time.time(), commit=commit)
        if branch is not None:
            told = (
                f"somebody else has moved {to.ref.removeprefix(_HEADS)}: commits go to {branch} from here on"
            )
            made = replace(made, branch=branch, message=told)
        self._tell(made)
        self._committed(made)

    def _advance(self, commit: str, message: str) -> str | None:
        """Moves the branch on to `commit`; where somebody else has moved it, begins one beside it and gives its name."""
        ref, last = self._destination.ref, self._last if self._made else None
        try:
            move_ref(self._repo, ref, commit, last, message)
        except RefMovedError:
            if not ref.startswith(_HEADS):
                raise
            branch = free_branch(self._repo, ref.removeprefix(_HEADS))
            move_ref(self._repo, f"{_HEADS}{branch}", commit, None, message)
            self._destination = replace(self._destination, ref=f"{_HEADS}{branch}")
            return branch
        return None


def is_full(error: Exception) -> bool:
    """Whether a disk or a quota has no room, which may pass; told by words, because some come from git."""
    return _FULL.search(str(error)) is not None
