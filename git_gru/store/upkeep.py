"""When a store is due for maintenance: three numbers in the cache, so that asking costs a filter next to nothing.

Counted are the models that writers made since maintenance last began, and the bytes that they took; between two times it pauses.
`claim` lets one of several askers begin.
"""

import sqlite3
import time
from collections.abc import Callable

from git_gru.store.database import Database, read_meta, write_meta

MODELS, BYTES = 10, 1 << 30
"""So many models made since the last time make maintenance due, or models of so many stored bytes."""

_MODELS, _BYTES, _AFTER = "added_models", "added_bytes", "maintain_after"
_LONGEST_PAUSE = 86_400.0
"""Seconds. A pause that seems longer comes from a clock that was put back."""


class Upkeep:
    """The numbers in the cache `database`. `clock` gives seconds since 1970."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def is_due(self) -> bool:
        """Whether enough models were made, and the pause is over."""
        return self._database.use(self._is_due)

    def claim(self, pause: float) -> bool:
        """Whether maintenance is due and the caller the one to begin it: for others, a pause of so many seconds begins now."""

        def write(db: sqlite3.Connection) -> bool:
            db.execute("BEGIN IMMEDIATE")
            if not self._is_due(db):
                return False
            write_meta(db, _AFTER, self._clock() + pause)
            return True

        return self._database.use(write)

    def begin(self) -> None:
        """Counts anew."""

        def write(db: sqlite3.Connection) -> None:
            for name in (_MODELS, _BYTES):
                write_meta(db, name, 0)

        self._database.use(write)

    def rest(self, pause: float) -> None:
        """Begins a pause of so many seconds."""
        self._database.use(lambda db: write_meta(db, _AFTER, self._clock() + pause))

    def _is_due(self, db: sqlite3.Connection) -> bool:
        left = float(read_meta(db, _AFTER, 0.0)) - self._clock()
        enough = int(read_meta(db, _MODELS, 0)) >= MODELS or int(read_meta(db, _BYTES, 0)) >= BYTES
        return enough and not 0 < left < _LONGEST_PAUSE


def count_added(db: sqlite3.Connection, models: int, stored: int) -> None:
    """Counts models that were made, as part of a transaction."""
    for name, count in ((_MODELS, models), (_BYTES, stored)):
        write_meta(db, name, int(read_meta(db, name, 0)) + count)
