"""A run's events into TensorBoard as it goes, beside what is shown of it."""

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self

from git_gru.cli.boundary import say
from git_gru.runs.metrics import Event
from git_gru.runs.record import RunRecord
from git_gru.runs.tensorboard import TensorBoardWriter
from git_gru.train.following import Watcher


class TensorBoardExport:
    """A watcher that passes everything on to `watcher` and writes event files under `<folder>/<run id>/`.

    A file that cannot be written is told once; a run does not end for it.
    """

    def __init__(self, watcher: Watcher, folder: Path) -> None:
        self._watcher, self._folder = watcher, folder
        self._stack = contextlib.ExitStack()
        self._writer: TensorBoardWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def waiting(self, what: str) -> None:
        """Passed on."""
        self._watcher.waiting(what)

    def started(self, record: RunRecord) -> None:
        """Opens the run's file."""
        self._watcher.started(record)
        try:
            self._writer = self._stack.enter_context(
                TensorBoardWriter(self._folder / record.id, record.started)
            )
        except OSError as error:
            self._give_up(error)

    def event(self, event: Event) -> None:
        """Writes the event's numbers."""
        self._watcher.event(event)
        try:
            if self._writer is not None:
                self._writer.add(event)
        except OSError as error:
            self._give_up(error)

    def stopping(self) -> None:
        """Passed on."""
        self._watcher.stopping()

    def _give_up(self, error: OSError) -> None:
        self._writer = None
        say(f"no more is written for TensorBoard into {self._folder}: {error.strerror}; the run goes on")
