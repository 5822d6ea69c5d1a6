"""What collection goes by: when each model was last used, since when it has been seen unneeded, which Git blobs are manifests.

- A *stamp* is the time at which a model was last answered to Git (or made). Git writes its index only after that.
- A stamp is *released* once the git command that was answered has ended: what that was to keep, it keeps by then.
- A model is *unneeded* while nothing in the user's repository names its manifest. The mark says since when that was seen.
- A *name* is the object id (SHA-1) that Git gives to a manifest. A model that was only ever cleaned, by a `git status` or `git
  diff`, has a name here that Git's object database does not know.

Time never runs backwards here, nor stands still: every time noted is later than all that were noted before. A clock that is put
back makes models older later, never earlier; one that was ahead makes them wait until it is reached.
"""

import hashlib
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Set

from git_gru.store.database import Database, read_meta, write_meta

_TICK = 1e-6
"""The least step of time, in seconds."""

_AT_ONCE = 500
"""How many ids one question to the cache holds."""


class Stamps:
    """Stamps, marks and names in the cache `database`."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._database = database

    def stamp(self, digest: str, text: bytes | None = None) -> None:
        """Notes that the model was used now; with `text`, its manifest, also its name."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")
            db.execute(
                "INSERT OR REPLACE INTO stamps VALUES (?, ?, 0)",
                (bytes.fromhex(digest), _now(db, self.clock())),
            )
            if text is not None:
                _learn(db, {blob_name(text): digest})

        self._database.use(write)

    def stamps(self) -> dict[str, float]:
        """When each model was last used, in seconds since 1970."""
        found = self._database.use(lambda db: db.execute("SELECT digest, time FROM stamps").fetchall())
        return {digest.hex(): float(when) for digest, when in found}

    def stamp_of(self, digest: str) -> float | None:
        """When the model was last used, in seconds since 1970; None where that is not known."""
        found = self._database.use(
            lambda db: db.execute(
                "SELECT time FROM stamps WHERE digest = ?", (bytes.fromhex(digest),)
            ).fetchone()
        )
        return float(found[0]) if found else None

    def release(self, stamps: Mapping[str, float]) -> None:
        """Notes that the git command has ended for which these models were stamped so; a later stamp is another's."""
        values = [(bytes.fromhex(digest), when) for digest, when in stamps.items()]
        statement = "UPDATE stamps SET released = 1 WHERE digest = ? AND time = ?"
        self._database.use(lambda db: db.executemany(statement, values))

    def released(self) -> set[str]:
        """The models whose latest stamps are released."""
        found = self._database.use(
            lambda db: db.execute("SELECT digest FROM stamps WHERE released").fetchall()
        )
        return {digest.hex() for (digest,) in found}

    def now(self) -> float:
        """The time, later than all that were noted before."""

        def write(db: sqlite3.Connection) -> float:
            db.execute("BEGIN IMMEDIATE")
            return _now(db, self.clock())

        return self._database.use(write)

    def mark(self, unneeded: Set[str]) -> dict[str, float]:
        """Notes which models are unneeded now, and says since when each of them has been seen so."""

        def write(db: sqlite3.Connection) -> dict[str, float]:
            db.execute("BEGIN IMMEDIATE")
            now = _now(db, self.clock())
            marked = {
                digest.hex(): float(since)
                for digest, since in db.execute("SELECT digest, since FROM unneeded")
            }
            gone = [(bytes.fromhex(digest),) for digest in marked.keys() - unneeded]
            new = [(bytes.fromhex(digest), now) for digest in unneeded - marked.keys()]
            db.executemany("DELETE FROM unneeded WHERE digest = ?", gone)
            db.executemany("INSERT INTO unneeded VALUES (?, ?)", new)
            return {digest: marked.get(digest, now) for digest in unneeded}

        return self._database.use(write)

    def forget(self, digests: Iterable[str]) -> None:
        """Forgets models that were dropped."""
        gone = [(bytes.fromhex(digest),) for digest in digests]

        def write(db: sqlite3.Connection) -> None:
            for table in ("stamps", "unneeded", "blobs"):
                db.executemany(f"DELETE FROM {table} WHERE digest = ?", gone)

        self._database.use(write)

    def known(self, names: Collection[bytes]) -> dict[bytes, str | None]:
        """Of Git blobs that were looked at before, the digest of the manifest in each; None where it is something else."""

        def read(db: sqlite3.Connection) -> dict[bytes, str | None]:
            found: dict[bytes, str | None] = {}
            wanted = list(names)
            for at in range(0, len(wanted), _AT_ONCE):
                some = wanted[at : at + _AT_ONCE]
                query = f"SELECT oid, digest FROM blobs WHERE oid IN ({','.join('?' * len(some))})"
                found.update(
                    (oid, digest.hex() if digest else None) for oid, digest in db.execute(query, some)
                )
            return found

        return self._database.use(read)

    def learn(self, blobs: Mapping[bytes, str | None]) -> None:
        """Notes what `known` is to say of Git blobs."""
        self._database.use(lambda db: _learn(db, blobs))

    def names(self, digest: str) -> list[bytes]:
        """The known names of a model's manifest (there is one, or it is not known)."""
        found = self._database.use(
            lambda db: db.execute(
                "SELECT oid FROM blobs WHERE digest = ?", (bytes.fromhex(digest),)
            ).fetchall()
        )
        return [oid for (oid,) in found]


def blob_name(content: bytes) -> bytes:
    """The object id that Git (with SHA-1) gives to a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).digest()


def _now(db: sqlite3.Connection, clock: float) -> float:
    now = max(clock, float(read_meta(db, "clock", 0.0)) + _TICK)
    write_meta(db, "clock", now)
    return now


def _learn(db: sqlite3.Connection, blobs: Mapping[bytes, str | None]) -> None:
    values = ((oid, bytes.fromhex(digest) if digest else None) for oid, digest in blobs.items())
    db.executemany("INSERT OR REPLACE INTO blobs VALUES (?, ?)", values)
