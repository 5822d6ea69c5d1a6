"""Rewriting a store: what is kept goes into new packs, then the old ones are deleted. Chunk ids and manifests never change.

This is the one way in which anything leaves a store. `repack` and `collect` decide (which encodings, which models to drop), a
`Rewrite` does it, beside readers and writers:

1. It takes stock while it holds the store's lock alone: no writer stands between its pack and the reference, so what no tree
   names in these packs is garbage.
2. Without a lock, new encodings and what is kept are written into a new pack.
3. `swap` holds the lock alone again for a moment: the model trees of the state *as it is by then* are made durable, the reference
   is moved, and the packs of step 1 are deleted. One that holds anything which a tree of the new state names, and no pack that
   stays has, is left where it is.

A reader that misses an object looks at the reference again. Killed at any instant, a rewrite leaves either the old state with
some garbage or the new one with some; the next one sweeps it.
"""

import contextlib
import re
import threading
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from git_gru.errors import StoreError
from git_gru.ids import Buffer
from git_gru.store.codec import encode_plain, inspect
from git_gru.store.lookup import ChunkRow
from git_gru.store.pack_reader import UNREADABLE, Pack
from git_gru.store.packs import Entry, PackWriter, make_entry, sync_folder
from git_gru.store.pipeline import ordered_map
from git_gru.store.promised import remote_objects
from git_gru.store.store import Store, read_chunk
from git_gru.store.trees import FORMAT, StoreTree, items_there, make_model_tree

LARGE_PACK = 1 << 28
"""A pack of at least so many bytes is left as it is by `mostly_used`, while most of it is in use."""

_USED_SHARE = 0.8
_PACK = re.compile(r"pack-[0-9a-f]{40}\.pack\Z")
_LEFT = re.compile(r"tmp_(pack|idx|rev)_[0-9A-Za-z]+\Z")
"""What a killed writer leaves, ours or a git that fetched: none is under way while the lock is held alone."""

_LOOSE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{38}\Z")
_BESIDE = (".pack", ".rev", ".promisor", ".bitmap", ".mtimes")

Keep = Callable[[Pack, int, int], bool]
"""Whether a pack is left as it is, by the bytes in it that are in use and the bytes of blobs that are not."""


def mostly_used(pack: Pack, used: int, dead: int) -> bool:
    """Leaves large packs that are well used; joins all others into one."""
    return pack.size >= LARGE_PACK and used >= _USED_SHARE * pack.size


def free_of_garbage(pack: Pack, used: int, dead: int) -> bool:
    """Leaves every pack that holds no chunk which nothing needs."""
    return dead == 0 and used > 0


class _Planned(NamedTuple):
    """A model tree that is to take the place of `before`."""

    before: bytes
    after: bytes


class Rewrite:
    """One rewrite under way; leaves the models `drop` out. For the holder of `one_at_a_time`.

    `rows`, `bases` and `blob_of` are the chunks of the store by their ids: as they are, and what is to become of them. Into `own`
    the caller puts models' own chunks, those that their manifests name; where it does not, all of a model's tree counts as such.
    """

    def __init__(self, store: Store, *, drop: Set[str] = frozenset()) -> None:
        self.store = store
        self.rewritten = 0
        with store.locked(alone=True):
            self.packs = store.objects.packs()
            self._loose = _loose_objects(store.repository)
            store.sync()
            self.rows = store.lookup.rows()
            self.models = store.models()
        self.drop = drop & self.models.keys()
        self.bases = {id: row.base for id, row in self.rows.items()}
        self.blob_of = {id: row.oid for id, row in self.rows.items()}
        self.own: dict[str, Collection[str]] = {}
        self._folder = store.repository / "objects/pack"
        self._writer: PackWriter | None = None
        self._promised: PackWriter | None = None
        self._stored: dict[str, int] = {}
        self._live: set[str] = set()
        self._writing = threading.Lock()
        self._ended = False
        self._planned: dict[str, _Planned] = {}
        self._kept: list[Pack] = []
        self._staying: set[bytes] = set()
        self._new: set[Path | None] = set()
        self._stuck: set[bytes] = set()

    def __enter__(self) -> "Rewrite":
        return self

    def __exit__(self, *_: object) -> None:
        with self._writing:
            self._ended = True
            for writer in (self._writer, self._promised):
                if writer is not None:
                    writer.abandon()

    def chunks_in_tree(self, digest: str) -> set[str]:
        """The chunks in a model's tree as it was found: its own, and their bases."""
        return {id for id, *_ in items_there(self.store.objects, self.models[digest])}

    def read(self, id: str) -> Buffer:
        """A chunk's bytes, verified."""
        return read_chunk(self.store.objects, lambda id: self.rows[id].oid, id)

    def encode(self, id: str, base: str | None, parts: Sequence[Buffer]) -> None:
        """Keeps a chunk as the blob `parts` from now on, a delta against `base` or plain. Safe for several threads."""
        entry = make_entry("blob", parts)
        with self._writing:
            if self._ended:  # another chunk's failure has ended it
                return
            if self._writer is None:
                large = any(pack.size >= LARGE_PACK for pack in self.packs)
                expected = 0 if large or self.drop else len(self.rows) + len(self.models)
                self._writer = PackWriter(self._folder, expected)
            self._writer.add(entry)
            self.bases[id] = base
            self.blob_of[id] = entry.oid
            self._stored[id] = sum(map(len, parts))
            self.rewritten += 1

    def make_plain(self, id: str) -> None:
        """Keeps a chunk plain from now on."""
        self.encode(id, None, encode_plain(self.read(id), self.dtype(id)))

    def copy(self, keep: Keep) -> None:
        """Copies what is in use into the new pack, but for what stands in packs that `keep` leaves as they are."""
        needed: set[bytes] = set()
        for digest in self.models.keys() - self.drop:
            entry, blobs = self._model_tree(digest, self.models[digest])
            self._planned[digest] = _Planned(self.models[digest], entry.oid)
            self._live.update(blobs)
            needed.update(blobs.values())
        if self._writer is not None:
            needed -= self._writer.oids()
        left = self._choose_packs(needed, keep)
        trees = sum(planned.after not in self._staying for planned in self._planned.values())
        writer = self._writer = self._writer or PackWriter(self._folder, len(left) + trees)
        for found in ordered_map(self.store.pool, self._copied, left, ahead=self.store.cores + 1):
            if isinstance(found, Entry):
                writer.add(found)
            else:
                self._stuck.add(found)
        for digest, planned in self._planned.items():
            if planned.after not in self._staying:
                writer.add(self._model_tree(digest, planned.before)[0])
        self._staying |= writer.oids()
        self._new.add(writer.finish())
        self._copy_promised()

    def swap(self, still: Callable[[], Set[str]] | None = None) -> Set[str]:
        """Makes the rewritten state the store's, deletes the old packs, and returns the digests of the models dropped.

        `still` is asked while no writer is under way which models may go; of those to be dropped, the others stay.
        """
        with self.store.locked(alone=True):
            drop = self.drop if still is None else self.drop & still()
            self._swap(drop)
            self.store.stamps.forget(drop)
        self.store.sync()
        return drop

    # ---- encodings ------------------------------------------------------------------------------------------------------

    def dtype(self, id: str) -> str:
        """The dtype that a chunk is kept by."""
        blob = self.store.objects.expect(self.rows[id].oid, "blob")
        return inspect(blob, where=f"chunk {id[:12]}").dtype

    def _model_tree(self, digest: str, tree: bytes) -> tuple[Entry, dict[str, bytes]]:
        """The model tree as it is to be, the model's own chunks and the bases that they need now; and its blobs."""
        items = items_there(self.store.objects, tree)
        before = {id: oid for id, oid, _ in items}
        deltas = {id for id, _, is_delta in items if is_delta and id not in self.bases}
        own = self.own.get(digest)
        if own is None or not all(id in self.bases for id in own):
            # of a chunk that is lost or new, the bases are not known: whatever the tree has may be one
            own = before.keys()
        needed: dict[str, bytes] = {}
        wanted = list(own)
        while wanted:
            id = wanted.pop()
            blob = self.blob_of.get(id) or before.get(id)
            if id not in needed and blob is not None:
                needed[id] = blob
                base = self.bases.get(id)
                if base is not None:
                    deltas.add(id)
                    wanted.append(base)
        return make_model_tree(needed, deltas), needed

    # ---- packs ----------------------------------------------------------------------------------------------------------

    def _choose_packs(self, needed: Set[bytes], keep: Keep) -> list[tuple[bytes, Pack | None, int]]:
        """Decides which packs stay; returns where the rest of what is needed lies: object, pack and offset."""
        left = set(needed)
        known = needed | {FORMAT.oid}
        places: list[tuple[bytes, Pack | None, int]] = []
        for (
            pack
        ) in self.packs:  # newest first: where an object was written again, its older copy may be damaged
            entries = pack.entries()
            inside = [entry for entry in entries if entry[0] in left]
            used = sum(size for *_, size in inside)
            dead = sum(
                size for oid, offset, size in entries if oid not in known and _holds_blob(pack, offset)
            )
            left.difference_update(oid for oid, *_ in inside)
            if pack.path.with_suffix(".keep").exists() or keep(pack, used, dead):
                self._kept.append(pack)
                self._staying.update(oid for oid, *_ in entries)
            else:
                places += [(oid, pack, offset) for oid, offset, _ in inside]
        return places + [(oid, None, 0) for oid in left]

    def _copied(self, place: tuple[bytes, Pack | None, int]) -> Entry | bytes:
        """A blob as an entry for the new pack, copied as it stands where that can be done; its id where it cannot be read."""
        oid, pack, offset = place
        try:
            with contextlib.suppress(*UNREADABLE):
                if pack is not None and (packed := pack.packed(offset)) is not None:
                    return Entry(oid, packed, zlib.crc32(packed))
            return make_entry("blob", [self.store.objects.expect(oid, "blob")])
        except StoreError:
            return oid

    def _copy_promised(self) -> None:
        """Copies what is here of the states of remotes: their commits and trees, which name what may be missing here."""
        writer = self._promised = PackWriter(self._folder, 0)
        for entry in remote_objects(self.store.objects):
            if entry.oid not in self._staying:
                writer.add(entry)
        self._staying |= writer.oids()
        self._new.add(writer.finish(promised=True))

    def _swap(self, drop: Set[str]) -> None:
        store = self.store
        old = store.tip()
        if old is None:
            return
        known = {pack.path for pack in self.packs}
        for pack in store.objects.packs():
            if pack.path not in known:
                self._staying.update(pack.oids())
        state = StoreTree(store.objects, old)
        changes: dict[str, bytes | None] = dict.fromkeys(drop)
        entries: list[Entry] = []
        late: set[bytes] = {entry.oid for entry in remote_objects(store.objects)}
        for digest, tree in state.models().items():
            planned = self._planned.get(digest)
            if digest in drop:
                continue
            if planned is None or planned.before != tree:
                entry, blobs = self._model_tree(digest, tree)
                entries.append(entry)
                self._live.update(blobs)
                late.update(blobs.values())
                planned = _Planned(tree, entry.oid)
            changes[digest] = planned.after
        new, upper = state.write(changes)
        self._writer = writer = PackWriter(self._folder, len(entries) + len(upper))
        for entry in (*entries, *upper):
            if entry.oid not in self._staying:
                writer.add(entry)
        self._new.add(writer.finish())
        if new != old and not store.update_ref(new, old):
            raise AssertionError("the reference moved under the lock")
        self._delete((late | self._stuck) - self._staying)
        if self._stored.keys() <= self.rows.keys():  # else chunks were mended of which nothing was known
            gone = self.rows.keys() - self._live
            store.lookup.rewritten(old.hex(), new.hex(), self._rows_now(), gone, changes)

    def _rows_now(self) -> dict[str, ChunkRow]:
        """The rows of the cache that are another now."""
        depths = chain_lengths(self.bases)
        now = {}
        for id in self.rows.keys() & self._live:
            row = self.rows[id]
            new = ChunkRow(
                self.blob_of[id], self.bases[id], row.raw, self._stored.get(id, row.stored), depths[id]
            )
            if new != row:
                now[id] = new
        return now

    def _delete(self, spared: Set[bytes]) -> None:
        """Deletes the packs and loose objects that there were, but for those that stay or hold any of `spared`."""
        # Packs are named after their content: a rewrite that changes nothing writes the old names again.
        stay = {pack.path for pack in self._kept} | self._new
        for pack in self.packs:
            if pack.path not in stay and spared.isdisjoint(pack.oids()):
                for suffix in (".idx", *_BESIDE):
                    pack.path.with_suffix(suffix).unlink(missing_ok=True)
        for oid, path in self._loose.items():
            if oid not in spared:
                path.unlink(missing_ok=True)
        for path in self._folder.iterdir():
            lost = _PACK.match(path.name) and not path.with_suffix(".idx").exists()
            if lost or _LEFT.match(path.name):
                path.unlink(missing_ok=True)
        for left in (*self.store.folder.glob("shallow-*"), *self.store.repository.glob("shallow[._]*")):
            left.unlink(missing_ok=True)
        sync_folder(self._folder)


def chain_lengths(bases: Mapping[str, str | None]) -> dict[str, int]:
    """How many deltas lead from each chunk to a plain one (or to one that is lost)."""
    lengths: dict[str, int] = {}
    for id in bases:
        chain = []
        wanted: str | None = id
        while wanted is not None and wanted in bases and wanted not in lengths:
            chain.append(wanted)
            wanted = bases[wanted]
        for link in reversed(chain):
            base = bases[link]
            lengths[link] = 0 if base is None else lengths.get(base, 0) + 1
    return lengths


def _holds_blob(pack: Pack, offset: int) -> bool:
    try:
        return pack.holds_blob(offset)
    except UNREADABLE:
        return False


def _loose_objects(repository: Path) -> dict[bytes, Path]:
    """The objects that stand in files of their own: Git puts them so when it fetches few."""
    objects = repository / "objects"
    found = {path: f"{path.parent.name}/{path.name}" for path in objects.glob("??/*")}
    return {bytes.fromhex(name.replace("/", "")): path for path, name in found.items() if _LOOSE.match(name)}
