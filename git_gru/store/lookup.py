"""The lookup cache: chunk id -> blob, base, sizes, depth; manifest's digest -> model tree. In `gru/index.sqlite`.

It says what the store's trees say, for the store commit that it names (`tip`); `sync` brings it up to date from the trees.

One chunk may have different blobs in different trees, each tree alone being consistent. The cache holds the one with the
shortest chain of bases in its tree, its *depth*: so the rows taken together are consistent too, and no chain among them closes to
a ring.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from git_gru.errors import StoreError
from git_gru.store.codec import MAX_BLOB_HEADER, inspect
from git_gru.store.database import Database, read_meta, write_meta
from git_gru.store.objects import Objects
from git_gru.store.trees import StoreTree, items_there
from git_gru.store.upkeep import count_added

_HEAD_BYTES = 1024
"""A stored chunk's header is shorter than this; a longer one is read whole."""

_COLUMNS = "oid, base, raw, stored, depth"


class ChunkRow(NamedTuple):
    """What the cache knows of a chunk: its blob's object id, its base's id if it is a delta, lengths raw and stored, and how
    many deltas lead from it to a plain chunk.
    """

    oid: bytes
    base: str | None
    raw: int
    stored: int
    depth: int


class Lookup(Database):
    """The cache's chunks and models."""

    def get(self, id: str) -> ChunkRow | None:
        """The row of a chunk, or None where it is not known."""
        return self.use(lambda db: _get(db, "chunks", id))

    def rows(self) -> dict[str, ChunkRow]:
        """All rows: chunk id -> row. A base is the same string as its own key."""
        found = self.use(lambda db: db.execute(f"SELECT {_COLUMNS}, id FROM chunks").fetchall())
        rows = {row[5].hex(): _row(row) for row in found}
        ids = {id: id for id in rows}
        return {
            id: row._replace(base=ids.get(row.base, row.base)) if row.base else row
            for id, row in rows.items()
        }

    def models(self) -> set[str]:
        """The digests of the models of the state that the cache was last brought up to."""
        return {
            digest.hex()
            for (digest,) in self.use(lambda db: db.execute("SELECT digest FROM models").fetchall())
        }

    def drop(self, id: str) -> None:
        """Forgets a chunk and the chunks that its encoding needs, because its stored copy proved damaged."""
        chain, wanted = [], id
        while wanted and wanted not in chain and (row := self.get(wanted)) is not None:
            chain.append(wanted)
            wanted = row.base or ""
        ids = [(bytes.fromhex(link),) for link in chain]
        self.use(lambda db: db.executemany("DELETE FROM chunks WHERE id = ?", ids))

    def rewritten(
        self,
        old: str,
        new: str,
        rows: Mapping[str, ChunkRow],
        gone: Iterable[str],
        models: Mapping[str, bytes | None],
    ) -> None:
        """Moves the cache from the state `old` to `new`, in which chunks have other `rows`, chunks and models (None) are gone.

        A cache in any other state is left to the next `sync`.
        """

        def write(db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")
            if _tip(db) != old:
                return
            dropped = [(bytes.fromhex(digest),) for digest, tree in models.items() if tree is None]
            staying = {bytes.fromhex(digest): tree for digest, tree in models.items() if tree is not None}
            ids = [(bytes.fromhex(id),) for id in gone]
            for table in ("chunks", "plain_sizes", "settled"):
                db.executemany(f"DELETE FROM {table} WHERE id = ?", ids)
            db.executemany("DELETE FROM models WHERE digest = ?", dropped)
            _insert_rows(db, rows)
            _insert_models(db, staying)
            write_meta(db, "tip", new)

        self.use(write)

    def note_plain(self, sizes: Mapping[str, int], settled: Iterable[str]) -> None:
        """Notes what plain encodings of chunks take that are kept as deltas, and which are `settled`: deltas are no smaller."""
        known = [(bytes.fromhex(id), size) for id, size in sizes.items()]
        ids = [(bytes.fromhex(id),) for id in settled]

        def write(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR REPLACE INTO plain_sizes VALUES (?, ?)", known)
            db.executemany("INSERT OR REPLACE INTO settled VALUES (?)", ids)

        self.use(write)

    def plain_sizes(self) -> dict[str, int]:
        """What plain encodings take of chunks that are kept as deltas, as far as it is known."""
        return {
            id.hex(): size
            for id, size in self.use(lambda db: db.execute("SELECT * FROM plain_sizes").fetchall())
        }

    def settled(self) -> set[str]:
        """The chunks whose plain encodings no delta that was tried could beat."""
        return {id.hex() for (id,) in self.use(lambda db: db.execute("SELECT id FROM settled").fetchall())}

    def sync(self, tree: StoreTree, objects: Objects) -> None:
        """Brings the cache up to the state `tree`: reads the model trees that are new or changed, forgets those gone.

        A chunk that is missing or damaged is left out, so that it counts as unknown and is written again when it is added.
        """
        tip = tree.commit.hex() if tree.commit else ""
        while (seen := self.use(_tip)) != tip:
            now = {bytes.fromhex(digest): oid for digest, oid in tree.models().items()}
            self.use(lambda db, seen=seen, now=now: _advance(db, objects, seen, tip, now))  # type: ignore[misc]

    def put(self, rows: Mapping[str, ChunkRow], models: Mapping[str, bytes], old: str, new: str) -> None:
        """Adds what a writer stored, moving the cache from the state `old` to `new`; counts the models (`upkeep`).

        A cache in any other state is left to the next `sync`.
        """

        def write(db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")  # what is looked at must not change before it is written
            if _tip(db) == old:
                _insert_rows(db, rows)
                _insert_models(db, {bytes.fromhex(digest): tree for digest, tree in models.items()})
                write_meta(db, "tip", new)
            count_added(db, len(models), sum(row.stored for row in rows.values()))

        self.use(write)


def _advance(
    db: sqlite3.Connection, objects: Objects, seen: str, tip: str, now: Mapping[bytes, bytes]
) -> None:
    """Moves the cache from the state `seen` to `tip`, unless another process has moved it elsewhere meanwhile."""
    db.execute("BEGIN IMMEDIATE")
    if _tip(db) != seen:
        return
    known: dict[bytes, bytes] = dict(db.execute("SELECT digest, tree FROM models").fetchall())
    # A chunk of a tree that was replaced or dropped may or may not live on in another: look at all trees anew.
    whole = not known or any(now.get(digest) != oid for digest, oid in known.items())
    db.execute("CREATE TEMP TABLE before AS SELECT * FROM chunks WHERE ?", (whole,))
    db.execute("CREATE UNIQUE INDEX temp.before_id ON before (id)")
    if whole:
        db.execute("DELETE FROM chunks")
        db.execute("DELETE FROM models")
    for digest, oid in now.items():
        if whole or digest not in known:
            _insert_rows(db, _tree_rows(db, objects, oid))
    _insert_models(db, now)
    write_meta(db, "tip", tip)
    db.execute("DROP TABLE before")


def _tree_rows(db: sqlite3.Connection, objects: Objects, tree: bytes) -> dict[str, ChunkRow]:
    """The rows that a model tree has better than the cache: of chunks that it lacks, or knows by a longer chain."""
    here: dict[str, ChunkRow] = {}
    current: dict[str, ChunkRow | None] = {}
    for id, blob, _ in items_there(objects, tree):
        current[id] = _get(db, "chunks", id)
        seen = [row for row in (current[id], _get(db, "before", id)) if row is not None and row.oid == blob]
        row = seen[0] if seen else _read_row(objects, blob, id)
        if row is not None:
            here[id] = row
    depths: dict[str, int] = {}
    for start in here:
        chain: list[str] = []
        wanted: str | None = start
        while wanted is not None and wanted in here and wanted not in depths and wanted not in chain:
            chain.append(wanted)
            wanted = here[wanted].base
        # A chain that ends nowhere (its base is lost, or it is a ring) makes its chunks as good as lost.
        depth = -1 if wanted is None else depths.get(wanted, _ENDLESS)
        for link in reversed(chain):
            depth += 1
            depths[link] = depth
    found = ((id, row._replace(depth=depths[id])) for id, row in here.items() if depths[id] < _ENDLESS)
    return {id: row for id, row in found if (known := current[id]) is None or row.depth < known.depth}


_ENDLESS = 1 << 20


def _tip(db: sqlite3.Connection) -> str:
    return str(read_meta(db, "tip", ""))


def _get(db: sqlite3.Connection, table: str, id: str) -> ChunkRow | None:
    found = db.execute(f"SELECT {_COLUMNS} FROM {table} WHERE id = ?", (bytes.fromhex(id),)).fetchone()
    return _row(found) if found else None


def _row(found: tuple[bytes, bytes | None, int, int, int]) -> ChunkRow:
    oid, base, raw, stored, depth = found[:5]
    return ChunkRow(oid, base.hex() if base else None, raw, stored, depth)


def _read_row(objects: Objects, blob: bytes, id: str) -> ChunkRow | None:
    try:
        size, head = objects.head(blob, _HEAD_BYTES)
        if int.from_bytes(bytes(head[:8]), "little") > _HEAD_BYTES - 8:
            size, head = objects.head(blob, MAX_BLOB_HEADER)
        encoding = inspect(head, where=f"chunk {id}")
    except StoreError:
        return None
    return ChunkRow(blob, encoding.base, encoding.nbytes, size, 0)


def _insert_rows(db: sqlite3.Connection, rows: Mapping[str, ChunkRow]) -> None:
    values: Iterable[tuple[bytes, bytes, bytes | None, int, int, int]] = (
        (
            bytes.fromhex(id),
            row.oid,
            bytes.fromhex(row.base) if row.base else None,
            row.raw,
            row.stored,
            row.depth,
        )
        for id, row in rows.items()
    )
    db.executemany("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?, ?)", values)


def _insert_models(db: sqlite3.Connection, models: Mapping[bytes, bytes]) -> None:
    db.executemany("INSERT OR REPLACE INTO models VALUES (?, ?)", models.items())
