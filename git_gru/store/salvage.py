"""Salvage: a store whose commit or trees are lost or damaged is put together again from the chunks that are intact.

The packs are read whole: every blob that is a stored chunk is decoded, which tells its id. A model is whole when all chunks of
its manifest are there; whole models make the new state. The manifests come from the user's repository, which has them all.
Nothing is deleted: what no model needs is left to the next repack.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from git_gru.errors import StoreError
from git_gru.ids import digest
from git_gru.store.codec import decode, inspect
from git_gru.store.locking import one_at_a_time
from git_gru.store.manifest import Manifest
from git_gru.store.packs import Entry, PackWriter
from git_gru.store.pipeline import ordered_map
from git_gru.store.store import LONGEST_CHAIN, REF, Store, read_chunk
from git_gru.store.trees import StoreTree, model_items, tree_of, with_bases

Progress = Callable[[int, int], None]
"""Told (done, all) in bytes of packs."""


class _Blob(NamedTuple):
    """An intact stored chunk: its object id, and its base's chunk id if it is a delta."""

    oid: bytes
    base: str | None


@dataclass(frozen=True, slots=True)
class Salvaged:
    """Digests of the models that the store has again, and of those of which chunks are missing."""

    whole: frozenset[str]
    lost: frozenset[str]


def is_reference_lost(store: Store) -> bool:
    """Whether the store has packs of its own (not only what was seen of remotes) and no reference to what is in them."""
    own = (pack for pack in store.objects.packs() if not pack.path.with_suffix(".promisor").exists())
    return store.tip() is None and any(own)


def is_readable(store: Store) -> bool:
    """Whether the store's reference, commit and all trees are there and can be read."""
    try:
        if is_reference_lost(store):
            return False
        for tree in store.models().values():
            for _ in model_items(store.objects, tree):
                pass
    except StoreError:
        return False
    return True


def salvage(store: Store, manifests: Iterable[Manifest], progress: Progress | None = None) -> Salvaged:
    """Makes a new state of all models that are whole: those of `manifests`, and those whose trees are intact.

    Raises `RewriteRunningError` while a repack or collection is under way.
    """
    with one_at_a_time(store.folder), store.locked(alone=True):
        found = _intact_chunks(store, progress)
        models: dict[str, Entry] = {}
        lost = set()
        for manifest in manifests:
            needed = with_bases(found, manifest.chunks())
            if needed is None:
                lost.add(manifest.digest)
            else:
                models[manifest.digest] = tree_of(needed)
        kept = {name: tree for name, tree in _intact_models(store, found).items() if name not in models}
        _publish(store, models, kept)
    return Salvaged(frozenset(models) | frozenset(kept), frozenset(lost - kept.keys()))


def _intact_chunks(store: Store, progress: Progress | None) -> dict[str, _Blob]:
    """All chunks that can be decoded: chunk id -> blob. Plain ones first, then what builds on them."""
    blobs = list(_blobs(store, progress))
    found: dict[str, _Blob] = {}
    waiting: list[_Blob] = []
    ahead = store.cores + 1
    for plain in ordered_map(store.pool, lambda oid: _plain(store, oid), blobs, ahead=ahead):
        if isinstance(plain, _Blob):
            waiting.append(plain)
        elif plain is not None:
            found.setdefault(plain[0], plain[1])
    for _ in range(LONGEST_CHAIN):
        ready = [blob for blob in waiting if blob.base in found]
        if not ready:
            break
        waiting = [blob for blob in waiting if blob.base not in found]
        work = functools.partial(_delta, store, dict(found))
        for delta in ordered_map(store.pool, work, ready, ahead=ahead):
            if delta is not None:
                found.setdefault(delta[0], delta[1])
    return found


def _blobs(store: Store, progress: Progress | None) -> Iterator[bytes]:
    """The ids of all objects in the packs that may be blobs."""
    packs = []
    for pack in store.objects.packs():
        with contextlib.suppress(StoreError):
            packs.append((pack, pack.entries()))
    every, done = sum(pack.size for pack, _ in packs), 0
    for pack, entries in packs:
        for oid, offset, size in entries:
            done += size
            if progress is not None:
                progress(min(done, every), every)
            with contextlib.suppress(Exception):  # a damaged entry of any kind is none to salvage
                if pack.holds_blob(offset):
                    yield oid


def _plain(store: Store, oid: bytes) -> tuple[str, _Blob] | _Blob | None:
    """A plain chunk with its id; a delta without, because its base comes first; None for anything else."""
    try:
        blob = store.objects.expect(oid, "blob")
        encoding = inspect(blob, where=oid.hex())
        if encoding.base is not None:
            return _Blob(oid, encoding.base)
        return digest(decode(blob, encoding, None, where=oid.hex())), _Blob(oid, None)
    except StoreError:
        return None


def _delta(store: Store, known: Mapping[str, _Blob], blob: _Blob) -> tuple[str, _Blob] | None:
    assert blob.base is not None
    try:
        data = store.objects.expect(blob.oid, "blob")
        base = read_chunk(store.objects, lambda id: known[id].oid if id in known else None, blob.base)
        return digest(decode(data, inspect(data, where=blob.oid.hex()), base, where=blob.oid.hex())), blob
    except StoreError:
        return None


def _intact_models(store: Store, found: Mapping[str, _Blob]) -> dict[str, Entry]:
    """The models of the state as it is, as far as it can be read, of which all chunks are intact."""
    intact: dict[str, Entry] = {}
    with contextlib.suppress(StoreError):
        for name, tree in StoreTree(store.objects, store.tip()).models().items():
            with contextlib.suppress(StoreError):
                needed = with_bases(found, (id for id, *_ in model_items(store.objects, tree)))
                if needed is not None:
                    intact[name] = tree_of(needed)
    return intact


def _publish(store: Store, models: Mapping[str, Entry], kept: Mapping[str, Entry]) -> None:
    trees = {**kept, **models}
    new, upper = StoreTree(store.objects, None).write({name: entry.oid for name, entry in trees.items()})
    pack = PackWriter(store.repository / "objects/pack", len(trees) + len(upper))
    for entry in (*trees.values(), *upper):
        pack.add(entry)
    pack.finish()
    store.objects.packs()  # looks at them anew: the new copies shall be found before the damaged ones
    try:
        old = store.tip()
    except StoreError:  # the reference itself is damaged
        (store.repository / REF).unlink()
        old = None
    if not store.update_ref(new, old):
        raise AssertionError("the reference moved under the lock")
    store.lookup.forget()
