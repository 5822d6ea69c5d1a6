"""Files kept open for reading, no more than so many: a store may have more packs than a process may open files."""

import os
import threading
from collections import OrderedDict
from pathlib import Path

MOST_OPEN = 64
"""How many packs are kept open at once."""


class _OpenFile:
    """A descriptor that is closed with the last reference to it, so that no thread loses it while reading."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class OpenFiles:
    """The packs read most recently, kept open: a store may have more packs than a process may open files."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path) -> _OpenFile:
        """The open file `path`. Raises FileNotFoundError where a repack deleted it."""
        with self._lock:
            file = self._open.pop(path, None) or _OpenFile(path)
            self._open[path] = file
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
            return file
