"""What the user asks the launcher by Ctrl-C and other signals: once to stop, once more to end at once. Free of torch."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SAME_REQUEST_SECONDS = 1.0


@dataclass
class Interrupts:
    """How often the user asked to stop.

    Signals that come within a second are one request: run as `git gru train`, a Ctrl-C reaches us from the terminal, and
    once more from git, which passes it on to its child. `last` is when the last request began.
    """

    count: int = 0
    last: float = -math.inf

    def add(self, now: float) -> None:
        """A signal came at `now`, in seconds of a monotonic clock."""
        if now - self.last >= SAME_REQUEST_SECONDS:
            self.count += 1
            self.last = now


@contextmanager
def counted_interrupts() -> Iterator[Interrupts]:
    """Counts SIGINT, SIGTERM and SIGHUP instead of letting them end the process (in the main thread only)."""
    seen = Interrupts()

    def count(number: int, frame: FrameType | None) -> None:
        seen.add(time.monotonic())

    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = {
        number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
