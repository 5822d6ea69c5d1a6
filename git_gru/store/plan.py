"""Plan: how each chunk of the models to publish is to be kept on a remote.

The newest version of a model plain, older ones as deltas against newer ones among the models of the plan, and against no other
chunk: nobody's other weights travel along. An encoding that the store has and that obeys this is used as it is; where there is
none, the chunk is encoded anew into a *fresh* pack, for the remote alone, which `clean` deletes.
"""

import threading
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from git_gru.ids import Buffer
from git_gru.store.codec import encode_plain, inspect
from git_gru.store.columns import DEPTH, WINDOW, Column, Columns, Rules, place_column
from git_gru.store.lookup import ChunkRow
from git_gru.store.manifest import Manifest
from git_gru.store.packs import PackWriter, make_entry
from git_gru.store.pipeline import ordered_map
from git_gru.store.store import BRING, ChunkMissingError, Store
from git_gru.store.trees import with_bases


class Kept(NamedTuple):
    """How a chunk is to be kept: its blob, its base, and the blob's length (0 for one that the remote has)."""

    oid: bytes
    base: str | None
    size: int


class Plan:
    """Chunk id -> how it is to be kept, as `kept`. What is put there before `encode` is left as it is."""

    def __init__(self, store: Store) -> None:
        self.kept: dict[str, Kept] = {}
        self.store = store
        self.fresh: PackWriter | None = None
        self.fresh_pack: Path | None = None
        self.lock = threading.Lock()

    def clean(self) -> None:
        """Deletes the blobs that were encoded for this remote alone."""
        if self.fresh is not None:
            self.fresh.abandon()
        if self.fresh_pack is not None:
            self.fresh_pack.with_suffix(".idx").unlink(missing_ok=True)
            self.fresh_pack.unlink(missing_ok=True)

    def encode(self, lines: Sequence[Sequence[Manifest]], keep_plain: Set[str]) -> None:
        """Plans how each chunk that the remote lacks is kept there; what must be encoded anew goes to the fresh pack."""
        self.store.sync()
        rows: dict[str, ChunkRow] = {}
        for id in dict.fromkeys(id for line in lines for manifest in line for id in manifest.chunks()):
            row = self.store.lookup.get(id) if id not in self.kept else None
            if row is not None:
                rows[id] = row
            elif id not in self.kept:
                raise ChunkMissingError(
                    f"chunk {id[:12]} is not in the store {self.store.folder}", hint=BRING
                )
        plain = {
            id
            for line in lines
            for at, manifest in enumerate(line)
            if at == 0 or manifest.digest in keep_plain
            for id in manifest.chunks()
        }
        columns = Columns({id: id for id in rows})
        for line, versions in enumerate(lines):
            for rank, manifest in enumerate(versions):
                columns.add(manifest, line, rank)
        rules = Rules(plain, frozenset(), DEPTH, WINDOW)
        for _ in ordered_map(
            self.store.pool,
            lambda column: self._place(column, rows, rules),
            columns.made(),
            ahead=self.store.cores + 1,
        ):
            pass
        for id in rows.keys() - self.kept.keys():  # headers and raw chunks stand in no column
            self._keep(id, rows[id])
        if self.fresh is not None:
            self.fresh_pack, self.fresh = self.fresh.finish(), None

    def _place(self, column: Column, rows: Mapping[str, ChunkRow], rules: Rules) -> None:
        for placed in place_column(column, rows.__getitem__, self._read, rules):
            if placed.parts is None:
                row = rows[placed.id]
                self.kept[placed.id] = Kept(row.oid, placed.base, row.stored)
            else:
                self._freshen(placed.id, placed.base, placed.parts)

    def _keep(self, id: str, row: ChunkRow) -> None:
        if row.base is None:
            self.kept[id] = Kept(row.oid, None, row.stored)
            return
        dtype = inspect(self.store.objects.expect(row.oid, "blob"), where=f"chunk {id[:12]}").dtype
        self._freshen(id, None, encode_plain(self._read(id), dtype))

    def _freshen(self, id: str, base: str | None, parts: Sequence[Buffer]) -> None:
        entry = make_entry("blob", parts)
        with self.lock:
            if self.fresh is None:
                self.fresh = PackWriter(self.store.repository / "objects/pack", 0)
            self.fresh.add(entry)
            self.kept[id] = Kept(entry.oid, base, sum(map(len, parts)))

    def _read(self, id: str) -> bytes:
        return self.store.chunk(id)

    def closure(self, manifest: Manifest) -> dict[str, Kept]:
        """How the chunks of a model and the bases that they need are kept: chunk id -> kept."""
        needed = with_bases(self.kept, manifest.chunks())
        assert needed is not None, "encode was told of another model"
        return needed
