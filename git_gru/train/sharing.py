"""Publishing a run as it goes: a thread of the launcher pushes what is new, and nothing waits for it.

What comes while a push is under way goes with the next one. A push that fails is told once, in the run's event log, and tried
again with the next checkpoint and at the end; it never stops the run.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from git_gru.errors import GruError
from git_gru.git.repository import Repository
from git_gru.git.run_sharing import Pushed, push_run
from git_gru.runs.metrics import Event, EventWriter
from git_gru.train.job import Job
from git_gru.train.plan import Plan


class Publisher:
    """Pushes a run to `remote` whenever it is told that there is something new. `events` is its log. Made by `publishing`."""

    def __init__(self, repo: Repository, remote: str, *, run: str, ref: str | None, events: Path) -> None:
        # of its own: the thread's git objects are not shared
        self._repo = Repository(repo.worktree, repo.git_dir, repo.common_dir, repo.environment)
        self._remote, self._run, self._events = remote, run, events
        self.ref = ref
        """The run's branch, which may become another; None where the record alone is pushed."""
        self._pushed = Pushed(None)
        self._news = threading.Event()
        self._over = False
        self.step = 0
        """How far the run was when something new was last told of."""
        self.failure: str | None = None
        """What the last push failed with; None after one that went well."""
        self._thread = threading.Thread(target=self._work, name="git-gru-publisher", daemon=True)
        self._thread.start()

    def tell(self, step: int) -> None:
        """Says that there is something new, after `step`; returns at once."""
        self.step = step
        self._news.set()

    def close(self) -> None:
        """Pushes the last state and waits for that."""
        self._over = True
        self._news.set()
        self._thread.join()

    def _work(self) -> None:
        over = False
        while not over:
            self._news.wait()
            self._news.clear()
            over = self._over
            self._push()

    def _push(self) -> None:
        before = self.failure
        try:
            self._pushed = push_run(self._repo, self._remote, self._run, self.ref, self._pushed)
            self.failure = None
        except (GruError, OSError) as error:
            self.failure = f"not pushed to {self._remote}: {error}"
        if self.failure != before and not self._over:
            self._write(self.failure or f"pushing to {self._remote} works again")

    def _write(self, message: str) -> None:
        writer = EventWriter(self._events)
        try:
            writer.write(Event(time=time.time(), step=self.step, message=message))
        except OSError:
            pass  # the disk is full: the workers say so
        finally:
            writer.close()


@contextmanager
def publishing(repo: Repository, plan: Plan, job: Job) -> Iterator[Publisher | None]:
    """A publisher for a run that is to be pushed, None for another. Leaving this waits for the last push."""
    if plan.push is None:
        yield None
        return
    # a site's rank 0 pushes its branch, and must know when that is done
    ref = None if plan.recipe.sync.is_git else job.ref
    publisher = Publisher(repo, plan.push, run=job.run, ref=ref, events=job.events)
    try:
        yield publisher
    finally:
        publisher.close()
