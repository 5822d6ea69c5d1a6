"""The file `gru/index.sqlite`, in which the store keeps what it can find out again: opened when it is first used, mended by
being begun anew.

Everything in it is a cache. It can be deleted at any time; `born` tells two beginnings apart, for those who must know that
nothing was forgotten between two looks.
"""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

SCHEMA = 3

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE chunks (id BLOB PRIMARY KEY, oid BLOB, base BLOB, raw INTEGER, stored INTEGER, depth INTEGER) WITHOUT ROWID;
CREATE TABLE models (digest BLOB PRIMARY KEY, tree BLOB) WITHOUT ROWID;
CREATE TABLE plain_sizes (id BLOB PRIMARY KEY, size INTEGER) WITHOUT ROWID;
CREATE TABLE settled (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE stamps (digest BLOB PRIMARY KEY, time REAL, released INTEGER) WITHOUT ROWID;
CREATE TABLE unneeded (digest BLOB PRIMARY KEY, since REAL) WITHOUT ROWID;
CREATE TABLE blobs (oid BLOB PRIMARY KEY, digest BLOB) WITHOUT ROWID;
CREATE INDEX blobs_of_models ON blobs (digest) WHERE digest IS NOT NULL;
"""

_PATIENCE = 60.0
"""How long the cache is waited for while other processes write it, in seconds."""

_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}

T = TypeVar("T")


class Database:
    """The cache in the file `path`. Safe for several threads; several processes take turns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._in_memory = False

    def use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` in one transaction and returns what it returns.

        After an error the file is opened once more; then it is thrown away and begun anew; where that cannot be done (a
        read-only store, a full disk) the cache lives in memory.
        """
        with self._lock:
            for attempt in range(4):
                try:
                    with self._transaction() as db:
                        return work(db)
                except sqlite3.DatabaseError as error:
                    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                    if code == sqlite3.SQLITE_BUSY or attempt == 3:
                        raise
                    self._close()
                    if attempt == 1 and code not in _UNWRITABLE:
                        self._delete()
                    elif attempt:
                        self._in_memory = True
            raise AssertionError("unreachable")

    def born(self) -> str:
        """A word that changes when the cache is begun anew."""
        return str(self.use(lambda db: read_meta(db, "born", "")))

    def forget(self) -> None:
        """Deletes the cache; it is rebuilt when it is next used."""
        with self._lock:
            self._close()
            self._delete()

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._connection is None:
            self._connection = self._open()
        with self._connection:
            yield self._connection

    def _open(self) -> sqlite3.Connection:
        path = ":memory:" if self._in_memory else self.path
        db = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=False)
        try:
            _prepare(db)
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _delete(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)


def read_meta(db: sqlite3.Connection, key: str, default: T) -> T:
    """A single value of the cache, by its name."""
    found = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return found[0] if found else default


def write_meta(db: sqlite3.Connection, key: str, value: str | float) -> None:
    """Sets a single value of the cache."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _prepare(db: sqlite3.Connection) -> None:
    patience = time.monotonic() + _PATIENCE
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # Several processes make the file at once: for this one lock SQLite does not wait by itself.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                raise
            time.sleep(0.01)
    db.execute("PRAGMA synchronous=NORMAL")
    if db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
        with db:
            db.execute("BEGIN IMMEDIATE")
            if db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
                _begin(db)


def _begin(db: sqlite3.Connection) -> None:
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        db.execute(f"DROP TABLE {name}")
    for statement in _TABLES.split(";")[:-1]:
        db.execute(statement)
    write_meta(db, "born", os.urandom(8).hex())
    db.execute(f"PRAGMA user_version = {SCHEMA}")
