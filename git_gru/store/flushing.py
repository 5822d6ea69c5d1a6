"""Flushing ahead: the disk takes what was written to a file while more is on its way, so that the last flush finds little."""

import os
import threading

FLUSH_BYTES = 1 << 23
"""Bytes that are written between two flushes, at least: smaller packs are flushed once, at their end."""


class FlushAhead:
    """Flushes the open file `descriptor`, on a thread of its own, while it is written. It must stay open to `wait` or `stop`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting = 0
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def wrote(self, length: int) -> None:
        """So many more bytes were written."""
        self._waiting += length
        if self._waiting < FLUSH_BYTES or (self._thread is not None and self._thread.is_alive()):
            return
        self._waiting = 0
        self._thread = threading.Thread(target=self._flush, name="gru-flush", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Waits for the flush under way."""
        if self._thread is not None:
            self._thread.join()

    def wait(self) -> None:
        """As `stop`; raises the `OSError` that a flush met: the system tells of it just once."""
        self.stop()
        if self._error is not None:
            raise self._error

    def _flush(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._error = self._error or error
