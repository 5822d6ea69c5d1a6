"""Freeing chunks that stay from bases that go: part of dropping models."""

from collections.abc import Callable, Collection, Sequence, Set

from git_gru.errors import StoreError
from git_gru.ids import Buffer
from git_gru.store.codec import encode_delta, encode_plain
from git_gru.store.pipeline import ordered_map
from git_gru.store.rewrite import Rewrite


def set_free(work: Rewrite, own_of: Callable[[str], Collection[str] | None]) -> None:
    """Encodes anew what hangs on chunks that no model names any more once those that `work` drops are gone.

    `own_of` gives a model's own chunks, those that its manifest names, by its digest; None where they are not known: then all of
    its tree counts as such. A chunk that cannot be read keeps its base.
    """
    gone = {id for digest in work.drop for id in work.chunks_in_tree(digest)}
    if not gone:
        return
    owned: set[str] = set()
    hanging: dict[str, None] = {}
    for digest in work.models.keys() - work.drop:
        ids = work.chunks_in_tree(digest)
        if not gone.isdisjoint(ids):
            own = work.own[digest] = set(own_of(digest) or ids)
            owned |= gone & own
            hanging.update(dict.fromkeys(own))
    foreign = gone - owned
    again = [id for id in hanging if work.bases.get(id) in foreign]
    store = work.store
    for found in ordered_map(store.pool, lambda id: _freed(work, id, foreign), again, ahead=store.cores + 1):
        if found is not None:
            work.encode(*found)


def _freed(work: Rewrite, id: str, foreign: Set[str]) -> tuple[str, str | None, Sequence[Buffer]] | None:
    """A chunk against the nearest of its bases that stays, or plain: the smaller. None where it cannot be read."""
    base = work.bases[id]
    while base is not None and base in foreign:
        base = work.bases.get(base)
    try:
        data, dtype = work.read(id), work.dtype(id)
        plain = encode_plain(data, dtype)
        if base is not None and work.rows[base].raw == len(data):
            delta = encode_delta(data, work.read(base), base, dtype)
            if sum(map(len, delta)) < sum(map(len, plain)):
                return id, base, delta
    except StoreError:
        return None
    return id, None, plain
