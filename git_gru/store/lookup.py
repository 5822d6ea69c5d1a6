"""The lookup cache `gru/index.sqlite`: chunk id -> blob, base, sizes; and when each model was last used.

A cache of what the store's trees say, valid for the store commit that it names (`tip`). It can be deleted at any time: `sync`
brings it up to date from the trees. The stamps of use are the one thing that then starts anew.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from git_gru.errors import StoreError
from git_gru.store.codec import MAX_BLOB_HEADER, inspect
from git_gru.store.objects import Objects
from git_gru.store.trees import StoreTree, model_blobs

SCHEMA = 1
_HEAD_BYTES = 1024
"""A stored chunk's header is shorter than this; a longer one is read whole."""

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE chunks (id BLOB PRIMARY KEY, oid BLOB, base BLOB, raw INTEGER, stored INTEGER) WITHOUT ROWID;
CREATE TABLE models (digest BLOB PRIMARY KEY, tree BLOB) WITHOUT ROWID;
CREATE TABLE stamps (digest BLOB PRIMARY KEY, time REAL) WITHOUT ROWID;
"""

_PATIENCE = 60.0
"""How long the cache is waited for while other processes write it, in seconds."""

_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}

T = TypeVar("T")


class ChunkRow(NamedTuple):
    """What the cache knows of a chunk: its blob's object id, its base's id if it is a delta, lengths raw and stored."""

    oid: bytes
    base: str | None
    raw: int
    stored: int


class Lookup:
    """The cache in the file `path`. Safe for several threads; several processes take turns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._in_memory = False

    def get(self, id: str) -> ChunkRow | None:
        """The row of a chunk, or None where it is not known."""
        found = self._use(
            lambda db: db.execute(
                "SELECT oid, base, raw, stored FROM chunks WHERE id = ?", (bytes.fromhex(id),)
            ).fetchone()
        )
        return _row(found) if found else None

    def rows(self) -> dict[str, ChunkRow]:
        """All rows: chunk id -> row."""
        found = self._use(lambda db: db.execute("SELECT oid, base, raw, stored, id FROM chunks").fetchall())
        return {row[4].hex(): _row(row) for row in found}

    def drop(self, id: str) -> None:
        """Forgets a chunk and the chunks that its encoding needs, because its stored copy proved damaged."""
        chain, wanted = [], id
        while wanted and wanted not in chain and (row := self.get(wanted)) is not None:
            chain.append(wanted)
            wanted = row.base or ""
        ids = [(bytes.fromhex(link),) for link in chain]
        self._use(lambda db: db.executemany("DELETE FROM chunks WHERE id = ?", ids))

    def stamp(self, digest: str) -> None:
        """Notes that the model was used now."""
        self._use(
            lambda db: db.execute(
                "INSERT OR REPLACE INTO stamps VALUES (?, ?)", (bytes.fromhex(digest), time.time())
            )
        )

    def stamps(self) -> dict[str, float]:
        """When each model was last used, in seconds since 1970."""
        found = self._use(lambda db: db.execute("SELECT digest, time FROM stamps").fetchall())
        return {digest.hex(): when for digest, when in found}

    def sync(self, tree: StoreTree, objects: Objects) -> None:
        """Brings the cache up to the state `tree`: reads the model trees that are new or changed, forgets those gone.

        A chunk that is missing or damaged is left out, so that it counts as unknown and is written again when it is added.
        """
        tip = tree.commit.hex() if tree.commit else ""
        while (seen := self._use(_tip)) != tip:
            self._advance(tree, objects, seen, tip)

    def _advance(self, tree: StoreTree, objects: Objects, seen: str, tip: str) -> None:
        """Moves the cache from the state `seen` to `tip`, unless another process moves it elsewhere meanwhile."""
        known = self._use(lambda db: dict(db.execute("SELECT digest, tree FROM models").fetchall()))
        now = {bytes.fromhex(digest): oid for digest, oid in tree.models().items()}
        # A chunk of a tree that was replaced or dropped may or may not live on in another: look at all trees anew.
        whole = not known or any(now.get(digest) != oid for digest, oid in known.items())
        current = self.rows()
        rows: dict[bytes, ChunkRow] = {}
        for digest, oid in now.items():
            if whole or digest not in known:
                for id, blob in _blobs_there(objects, oid):
                    row = current.get(id)
                    if row is None or row.oid != blob:
                        row = _read_row(objects, blob, id)
                    if row is not None:
                        current[id] = rows[bytes.fromhex(id)] = row

        def write(db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")
            if _tip(db) == seen:
                _replace(db, rows, now, tip, whole=whole)

        self._use(write)

    def put(self, rows: Mapping[str, ChunkRow], models: Mapping[str, bytes], old: str, new: str) -> None:
        """Adds what a writer stored, moving the cache from the state `old` to `new`; stamps the models.

        A cache in any other state is left to the next `sync`.
        """
        now = time.time()

        def write(db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")  # what is looked at must not change before it is written
            if _tip(db) == old:
                entries = {bytes.fromhex(digest): tree for digest, tree in models.items()}
                _insert(db, {bytes.fromhex(id): row for id, row in rows.items()}, entries, new)
            db.executemany(
                "INSERT OR REPLACE INTO stamps VALUES (?, ?)", [(bytes.fromhex(d), now) for d in models]
            )

        self._use(write)

    def forget(self) -> None:
        """Deletes the cache; the next `sync` rebuilds it."""
        with self._lock:
            self._close()
            self._delete()

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._close()

    def _use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` in one transaction.

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
                for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                    db.execute(f"DROP TABLE {name}")
                for statement in _TABLES.split(";")[:-1]:
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {SCHEMA}")


def _tip(db: sqlite3.Connection) -> str:
    found = db.execute("SELECT value FROM meta WHERE key = 'tip'").fetchone()
    return found[0] if found else ""


def _row(found: tuple[bytes, bytes | None, int, int]) -> ChunkRow:
    return ChunkRow(found[0], found[1].hex() if found[1] else None, found[2], found[3])


def _blobs_there(objects: Objects, tree: bytes) -> Iterable[tuple[str, bytes]]:
    """The chunks of a model tree; none where the tree itself is missing or damaged."""
    try:
        return model_blobs(objects, tree).items()
    except StoreError:
        return ()


def _read_row(objects: Objects, blob: bytes, id: str) -> ChunkRow | None:
    try:
        size, head = objects.head(blob, _HEAD_BYTES)
        if int.from_bytes(bytes(head[:8]), "little") > _HEAD_BYTES - 8:
            size, head = objects.head(blob, MAX_BLOB_HEADER)
        encoding = inspect(head, where=f"chunk {id}")
    except StoreError:
        return None
    return ChunkRow(blob, encoding.base, encoding.nbytes, size)


def _replace(
    db: sqlite3.Connection, rows: dict[bytes, ChunkRow], models: dict[bytes, bytes], tip: str, *, whole: bool
) -> None:
    if whole:
        db.execute("DELETE FROM chunks")
    db.execute("DELETE FROM models")
    _insert(db, rows, models, tip)


def _insert(
    db: sqlite3.Connection, rows: Mapping[bytes, ChunkRow], models: Mapping[bytes, bytes], tip: str
) -> None:
    values: Iterable[tuple[bytes, bytes, bytes | None, int, int]] = (
        (id, row.oid, bytes.fromhex(row.base) if row.base else None, row.raw, row.stored)
        for id, row in rows.items()
    )
    db.executemany("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?)", values)
    db.executemany("INSERT OR REPLACE INTO models VALUES (?, ?)", models.items())
    db.execute("INSERT OR REPLACE INTO meta VALUES ('tip', ?)", (tip,))
