"""Mending damaged chunks: writing them anew from intact bytes, wherever these were found.

A chunk may be intact elsewhere in the store: in another pack (it was written again, or copied), or in another encoding that
another model's tree names. What comes from a remote or a file is as good: `mend` compares all bytes with their ids.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from git_gru.errors import StoreError
from git_gru.ids import Buffer, digest
from git_gru.store.codec import ChunkDamagedError, decode, encode_plain, inspect
from git_gru.store.pack_reader import UNREADABLE, Pack
from git_gru.store.rewrite import Rewrite, free_of_garbage
from git_gru.store.store import LONGEST_CHAIN, Store
from git_gru.store.trees import items_there


class Intact(NamedTuple):
    """A chunk's bytes, and the dtype of its tensor."""

    id: str
    data: Buffer
    dtype: str


def intact_copies(store: Store, ids: Iterable[str]) -> Iterator[Intact]:
    """Those of the chunks `ids` of which some copy in the store decodes to the right bytes."""
    search = _Search(store)
    for id in dict.fromkeys(ids):
        found = search.find(id, LONGEST_CHAIN)
        if found is not None:
            yield found


def mend(store: Store, chunks: Iterable[Intact]) -> int:
    """Writes chunks anew, plain, and has all trees name them; returns how many. For the holder of `one_at_a_time`.

    Raises `ChunkDamagedError` for bytes that are not those of their id; nothing is changed then.
    """
    with Rewrite(store) as work:
        for id, data, dtype in chunks:
            if digest(data) != id:
                raise ChunkDamagedError(f"chunk {id[:12]}: the bytes to mend it with are not those of its id")
            work.encode(id, None, encode_plain(data, dtype))
        if work.rewritten:
            work.copy(free_of_garbage)
            work.swap()
        return work.rewritten


class _Search:
    """Looks for intact copies in every pack, under every blob that any model's tree names for a chunk."""

    def __init__(self, store: Store) -> None:
        self._packs: list[Pack] = store.objects.packs()
        self._blobs: dict[str, set[bytes]] = {}
        for tree in store.models().values():
            for id, blob, _ in items_there(store.objects, tree):
                self._blobs.setdefault(id, set()).add(blob)

    def find(self, id: str, patience: int) -> Intact | None:
        """The chunk, where a copy of it decodes; through at most `patience` bases."""
        for blob in self._blobs.get(id, ()):
            for pack in self._packs:
                offset = pack.find(blob)
                if offset is not None and patience:
                    found = self._decoded(id, pack, offset, patience)
                    if found is not None:
                        return found
        return None

    def _decoded(self, id: str, pack: Pack, offset: int, patience: int) -> Intact | None:
        where = f"chunk {id[:12]}"
        try:
            entry = pack.read(offset)
            encoding = inspect(entry[1], where=where)
            base = self.find(encoding.base, patience - 1) if encoding.base is not None else None
            data = decode(entry[1], encoding, base.data if base is not None else None, where=where)
        except (StoreError, *UNREADABLE):
            return None
        return Intact(id, data, encoding.dtype) if digest(data) == id else None
