"""Models that Git only looked at: a `git status` cleans a file that was overwritten, and keeps nothing of the answer.

When Git closes the filter's pipe it has come to its end, and what it was to keep is in its object database. Of what is not there
nothing will ever be asked, so the collector need not wait for it (`Stamps.release`), and it is counted (`Upkeep`): an editor that
asks for the status every second while a trainer writes must not fill the disk.
"""

import contextlib
import sqlite3
from typing import NamedTuple

from git_gru.git.repository import Repository
from git_gru.store.ingest import Ingested
from git_gru.store.stamps import blob_name
from git_gru.store.store import Store
from git_gru.store.upkeep import Upkeep


class _Model(NamedTuple):
    """A model that was cleaned: its manifest's name in Git (hex), its size in bytes, its stamp, whether the store lacked it."""

    name: str
    size: int
    stamp: float
    is_new: bool


class Cleaned:
    """The models that one filter process cleaned into `store` for Git, at work in `repo`."""

    def __init__(self, repo: Repository, store: Store) -> None:
        self._objects = repo.common_dir / "objects"
        self._store = store
        self._models: dict[str, _Model] = {}

    def add(self, result: Ingested, text: bytes) -> None:
        """Notes a model before its manifest `text` is answered."""
        digest = result.manifest.digest
        stamp = self._store.stamps.stamp_of(digest)
        if stamp is not None:
            is_new = result.is_new or (digest in self._models and self._models[digest].is_new)
            self._models[digest] = _Model(blob_name(text).hex(), result.manifest.size, stamp, is_new)

    def settle(self) -> None:
        """To be called when Git has closed the pipe: tells models that it only looked at from those that it keeps.

        A manifest that Git keeps in a pack passes for looked at as well. The collector, which looks closely, is not misled.
        """
        looked = {
            digest: model
            for digest, model in self._models.items()
            if not (self._objects / model.name[:2] / model.name[2:]).exists()
        }
        if not looked:
            return
        with contextlib.suppress(sqlite3.Error):  # a cache that cannot be written is no failure of Git's
            self._store.stamps.release({digest: model.stamp for digest, model in looked.items()})
            new = [model.size for model in looked.values() if model.is_new]
            if new:
                Upkeep(self._store.lookup).looked_at(len(new), sum(new))
