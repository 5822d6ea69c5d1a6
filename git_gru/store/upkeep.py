"""When a store is due for maintenance: a few numbers in the cache, so that asking costs a filter next to nothing.

Counted are the models that writers made since maintenance last began, the bytes that they took, and the packs in which models of
remotes came; between two times it pauses.
Models that Git only looked at, and their bytes, are counted apart: a pause does not hold for them, since an editor that asks for
the status every second would fill the disk in it. `claim` lets one of several askers begin.
"""

import sqlite3
import time
from collections.abc import Callable, Mapping

from git_gru.store.database import Database, read_meta, write_meta

MODELS, BYTES = 10, 1 << 30
"""So many models made since the last time make maintenance due, or models of so many stored bytes."""

PACKS = 20
"""So many packs that came from remotes make maintenance due: a clone that only pulls gathers three or four with each model."""

LOOKED = 20
"""So many models that were only looked at, or such models of `BYTES` raw bytes, make maintenance due in a pause too."""

_MODELS, _BYTES, _AFTER = "added_models", "added_bytes", "maintain_after"
_PACKS = "brought_packs"
_LOOKED, _LOOKED_BYTES = "looked_models", "looked_bytes"
_LONGEST_PAUSE = 86_400.0
"""Seconds. A pause that seems longer comes from a clock that was put back."""


class Upkeep:
    """The numbers in the cache `database`. `clock` gives seconds since 1970."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def is_due(self) -> bool:
        """Whether enough was made or brought and the pause is over, or so many only looked at that it does not count."""
        return self._database.use(self._is_due)

    def claim(self, pause: float) -> bool:
        """Whether maintenance is due and the caller the one to begin it: for others, a pause of so many seconds begins now."""

        def write(db: sqlite3.Connection) -> bool:
            db.execute("BEGIN IMMEDIATE")
            if not self._is_due(db):
                return False
            _reset(db, _LOOKED, _LOOKED_BYTES)  # or each asker would begin until maintenance does
            write_meta(db, _AFTER, self._clock() + pause)
            return True

        return self._database.use(write)

    def begin(self) -> None:
        """Counts anew."""
        self._database.use(lambda db: _reset(db, _MODELS, _BYTES, _PACKS, _LOOKED, _LOOKED_BYTES))

    def brought(self, packs: int) -> None:
        """Counts packs that came from remotes."""
        self._add({_PACKS: packs})

    def looked_at(self, models: int, size: int) -> None:
        """Counts models, of so many raw bytes, that were made and that Git did not keep."""
        self._add({_LOOKED: models, _LOOKED_BYTES: size})

    def rest(self, pause: float) -> None:
        """Begins a pause of so many seconds."""
        self._database.use(lambda db: write_meta(db, _AFTER, self._clock() + pause))

    def _add(self, more: Mapping[str, int]) -> None:
        def write(db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")
            _count(db, more)

        self._database.use(write)

    def _is_due(self, db: sqlite3.Connection) -> bool:
        left = float(read_meta(db, _AFTER, 0.0)) - self._clock()
        if _reaches(db, {_LOOKED: LOOKED, _LOOKED_BYTES: BYTES}):
            return True
        return _reaches(db, {_MODELS: MODELS, _BYTES: BYTES, _PACKS: PACKS}) and not 0 < left < _LONGEST_PAUSE


def count_added(db: sqlite3.Connection, models: int, stored: int) -> None:
    """Counts models that were made, as part of a transaction."""
    _count(db, {_MODELS: models, _BYTES: stored})


def _count(db: sqlite3.Connection, more: Mapping[str, int]) -> None:
    for name, count in more.items():
        write_meta(db, name, int(read_meta(db, name, 0)) + count)


def _reset(db: sqlite3.Connection, *names: str) -> None:
    for name in names:
        write_meta(db, name, 0)


def _reaches(db: sqlite3.Connection, limits: Mapping[str, int]) -> bool:
    """Whether one of the numbers has come to its limit."""
    return any(int(read_meta(db, name, 0)) >= limit for name, limit in limits.items())
