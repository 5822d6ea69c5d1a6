"""Verifying a store: are its packs and trees well formed, is every chunk there, does every chunk decode to what its id says.

A `Finding` is one thing that is wrong. Nothing is changed; `mend` can mend damaged chunks of which intact bytes are found.
"""

import hashlib
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from git_gru.errors import StoreError
from git_gru.store.codec import MAX_BLOB_HEADER, inspect
from git_gru.store.objects import ObjectMissingError
from git_gru.store.open_files import OpenFiles
from git_gru.store.pack_reader import Pack
from git_gru.store.packs import make_entry
from git_gru.store.pipeline import ordered_map
from git_gru.store.store import LONGEST_CHAIN, ChunkMissingError, Store, read_chunk
from git_gru.store.trees import StoreTree, model_blobs, model_items

Progress = Callable[[int, int], None]


class Kind(StrEnum):
    """What is wrong."""

    PACK = "pack"
    TREE = "tree"
    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong: a sentence, and the model (its manifest's digest) and chunk that it concerns, if any."""

    kind: Kind
    text: str
    digest: str | None = None
    chunk: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was looked at, and what is wrong."""

    models: int
    chunks: int
    packs: int
    findings: tuple[Finding, ...]

    def broken_chunks(self) -> list[tuple[str, str]]:
        """(digest, chunk id) of the chunks that are missing or damaged: what a repair needs to find."""
        return [
            (found.digest, found.chunk)
            for found in self.findings
            if found.digest is not None and found.chunk is not None
        ]


def verify(
    store: Store,
    chunks_of: Callable[[str], Collection[str] | None],
    *,
    deep: bool = False,
    progress: Progress | None = None,
) -> Verified:
    """Looks at all of a store. `chunks_of` gives the chunks that a model's manifest names, by its digest; None: not known.

    `deep` decodes every chunk and compares it with its id. `progress` is told (done, all), in chunks if `deep`, else in models.
    For the holder of `one_at_a_time`: a rewrite would take objects away meanwhile.
    """
    packs = sorted((store.repository / "objects/pack").glob("pack-*.idx"))
    findings = [found for index in packs for found in pack_findings(index.with_suffix(".pack"))]
    models: dict[str, bytes] = {}
    try:
        state = StoreTree(store.objects, store.tip())
        for group in state.groups():
            try:
                models.update(state.models_in(group))
            except StoreError as error:
                findings.append(Finding(kind=Kind.TREE, text=f"the tree of all models {group}…: {error}"))
    except StoreError as error:
        findings.append(Finding(kind=Kind.TREE, text=f"the state of the store: {error}"))
    work = _Work(store)
    for done, (digest, tree) in enumerate(models.items()):
        findings += work.model(digest, tree, chunks_of(digest))
        if progress is not None and not deep:
            progress(done + 1, len(models))
    if deep:
        findings += work.decode(models, progress)
    return Verified(models=len(models), chunks=len(work.bases), packs=len(packs), findings=tuple(findings))


def pack_findings(path: Path) -> Iterator[Finding]:
    """Whether a pack and its index belong together and are complete. Their objects are looked at one by one elsewhere."""
    try:
        pack = Pack(path, OpenFiles())
        index = bytes(pack.index)
        with path.open("rb") as file:
            head = file.read(12)
            file.seek(-20, 2)
            end = file.read(20)
        if hashlib.sha1(index[:-20], usedforsecurity=False).digest() != index[-20:]:
            yield Finding(kind=Kind.PACK, text=f"{path.with_suffix('.idx')}: the index is damaged")
        elif head != struct.pack(">4sII", b"PACK", 2, pack.count) or end != index[-40:-20]:
            yield Finding(kind=Kind.PACK, text=f"{path}: the pack is damaged, or not the one of its index")
    except (StoreError, OSError) as error:
        yield Finding(kind=Kind.PACK, text=str(error))


class _Work:
    """One verification. `bases` are the distinct stored chunks whose headers were read, by id and blob, with their bases."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.bases: dict[tuple[str, bytes], str | None] = {}

    def model(self, digest: str, tree: bytes, chunks: Collection[str] | None) -> Iterator[Finding]:
        """Looks at a model tree, and at the header of every stored chunk in it."""
        try:
            content = self.store.objects.expect(tree, "tree")
            if make_entry("tree", [content]).oid != tree:
                raise StoreError(f"the tree of the model {digest[:12]} is damaged")
            items = list(model_items(self.store.objects, tree))
        except StoreError as error:
            yield Finding(kind=Kind.TREE, digest=digest, text=str(error))
            return
        there = {id for id, *_ in items}
        bases: dict[str, str | None] = {}
        for id, blob, is_delta in items:
            try:
                base = bases[id] = self._base(id, blob)
            except StoreError as error:
                yield _broken(digest, id, error)
                continue
            if is_delta != (base is not None):
                text = f"the tree of the model {digest[:12]} says wrongly how chunk {id[:12]} is kept"
                yield Finding(kind=Kind.TREE, digest=digest, text=text)
            if base is not None and base not in there:
                text = f"chunk {base[:12]} is missing, the base of chunk {id[:12]}"
                yield Finding(kind=Kind.MISSING, digest=digest, chunk=base, text=text)
        for id in bases:
            if _is_endless(id, bases):
                text = f"chunk {id[:12]}: its chain of bases does not end"
                yield Finding(kind=Kind.DAMAGED, digest=digest, chunk=id, text=text)
        for id in dict.fromkeys(chunks or ()):
            if id not in there:
                yield Finding(kind=Kind.MISSING, digest=digest, chunk=id, text=f"chunk {id[:12]} is missing")

    def decode(self, models: Mapping[str, bytes], progress: Progress | None) -> Iterator[Finding]:
        """Decodes every distinct stored chunk whose header is sound."""
        store = self.store

        def decoded(place: tuple[str, str, Mapping[str, bytes]]) -> Finding | None:
            digest, id, blobs = place
            try:
                read_chunk(store.objects, blobs.get, id)
            except StoreError as error:
                return _broken(digest, id, error)
            return None

        places = self._places(models)
        results = ordered_map(store.pool, decoded, places, ahead=store.cores + 1)
        for done, found in enumerate(results, start=1):
            if progress is not None:
                progress(done, len(self.bases))
            if found is not None:
                yield found

    def _places(self, models: Mapping[str, bytes]) -> Iterator[tuple[str, str, Mapping[str, bytes]]]:
        seen: set[tuple[str, bytes]] = set()
        for digest, tree in models.items():
            try:
                blobs = model_blobs(self.store.objects, tree)
            except StoreError:
                continue
            for place in blobs.items() - seen:
                if place in self.bases:
                    seen.add(place)
                    yield digest, place[0], blobs

    def _base(self, id: str, blob: bytes) -> str | None:
        if (id, blob) not in self.bases:
            head = self.store.objects.head(blob, MAX_BLOB_HEADER)[1]
            self.bases[id, blob] = inspect(head, where=f"chunk {id[:12]}").base
        return self.bases[id, blob]


def _broken(digest: str, id: str, error: StoreError) -> Finding:
    kind = Kind.MISSING if isinstance(error, ObjectMissingError | ChunkMissingError) else Kind.DAMAGED
    text = f"chunk {id[:12]} is missing" if kind is Kind.MISSING else str(error)
    return Finding(kind=kind, digest=digest, chunk=id, text=text)


def _is_endless(id: str, bases: Mapping[str, str | None]) -> bool:
    wanted: str | None = id
    for _ in range(LONGEST_CHAIN + 1):
        if wanted is None:
            return False
        wanted = bases.get(wanted)
    return True
