"""Long work as it goes, on stderr: a bar in a terminal; of a run, also a plain line for each checkpoint everywhere."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from git_gru.cli.boundary import printable
from git_gru.cli.render import plural
from git_gru.runs.metrics import Event
from git_gru.runs.record import RunRecord

if TYPE_CHECKING:
    from rich.progress import Progress


def bytes_progress(what: str) -> Callable[[int, int], None] | None:
    """A function to tell (done, all) in bytes, which shows a bar until all is done; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        return None
    bar = _bar(what, in_bytes=True)
    task = bar.add_task(what, total=None)

    def update(done: int, every: int) -> None:
        if not bar.live.is_started:
            bar.start()
        bar.update(task, completed=done, total=every)
        if done >= every:
            bar.stop()

    return update


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A function to tell (done, all), which shows a bar while the context lasts; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with _bar(what, in_bytes=False) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, every: bar.update(task, completed=done, total=every)


def _bar(what: str, *, in_bytes: bool) -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amounts = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
    columns = (TextColumn(what), BarColumn(bar_width=24), *amounts, TimeRemainingColumn())
    return Progress(*columns, console=Console(file=sys.stderr), transient=True)


class RunProgress:
    """Shows what the launcher tells (it is a `git_gru.train.following.Watcher`)."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._live = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._live.add_task("", total=1, shown="starting workers", visible=False)
        self._shown: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def waiting(self, what: str) -> None:
        """Says what for."""
        self._say(what)

    def started(self, record: RunRecord) -> None:
        """Says what runs and where its commits go."""
        workers = plural(record.nproc, "worker")
        start = "goes on from the commit's model" if record.parent_model else "starts from new weights"
        if record.step:
            start = f"goes on after step {record.step}"
        self._say(
            f"run {record.id}: from {record.source[:10]}, {workers}, {start}, commits go to {record.branch}"
        )
        self._live.update(self._task, total=record.steps, visible=True)

    def segment(self, what: str, last: int) -> None:
        """Says what runs, up to the step `last`, where it is no run of its own."""
        self._say(what)
        self._live.update(self._task, total=last, visible=True)

    def event(self, event: Event) -> None:
        """Moves the live line on; a commit gets a line of its own."""
        if event.loss is not None:
            self._shown["loss"] = f"{event.loss:.3f}"
        if (loss := event.validation.get("val_loss")) is not None:
            self._shown["val_loss"] = f"{loss:.3f}"
        if event.tokens_per_s is not None:
            self._shown["tokens/s"] = f"{event.tokens_per_s:,.0f}"
        shown = "  ".join(f"{name} {value}" for name, value in self._shown.items())
        if event.commit is None:
            self._live.update(self._task, completed=event.step, shown=shown)
        if event.commit is not None or (event.step == 0 and event.validation):
            metrics = "  ".join(f"{name} {value:.3f}" for name, value in event.validation.items())
            commit = f"  commit {event.commit[:10]}" if event.commit else ""
            self._say(f"step {event.step:>6}  {metrics}{commit}")
        if event.round is not None:
            merged = [f"{name} {seen['weight']:.2f}" for name, seen in event.sites.items() if seen["weight"]]
            self._say(
                f"round {event.round:>5}  {'merged ' + ', '.join(merged) if len(merged) > 1 else 'alone'}"
            )
        if event.message:
            self._say(event.message)

    def stopping(self) -> None:
        """Says what the first Ctrl-C does, and what a second would."""
        self._say("stopping after this step or the next, with a last commit (Ctrl-C again to end at once)")

    def _say(self, text: str) -> None:
        self._console.print(printable(text, keep="\n"), markup=False)
