"""Bring: models that a remote has become models of this store, each blob fetched once, in batches of bounded size.

A model is made part of `refs/gru/store` only when all that it needs is here and durable, so the local store names whole models
only. What arrived before an interruption stays in the store's packs, is found there by the next try, and is swept by a later
repack if there is none.

Single chunks (one tensor of a large model) are brought through a `Part`: they are readable, but the model does not become one of
the store's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from git_gru.ids import Buffer
from git_gru.store.chunks import CHUNK_BYTES, cut_lengths
from git_gru.store.codec import ChunkDamagedError, inspect
from git_gru.store.manifest import Manifest
from git_gru.store.objects import ObjectMissingError, Objects
from git_gru.store.remote import BATCH_BYTES, Remote, RemoteError, blamed
from git_gru.store.store import LONGEST_CHAIN, ChunkMissingError, ModelMissingError, Store, read_chunk
from git_gru.store.trees import StoreTree, TreeError, model_blobs
from git_gru.store.writer import link

Progress = Callable[[int, int], None]
"""Told (done, all) in bytes of raw data, an estimate from the manifests."""

_HEAD_BYTES = 1024  # of a stored chunk: as good as always its whole header
_NOWHERE = (
    "Ask whoever committed it to run `git gru push`, or name the repository that has it: a remote (git remote add), or its "
    "address in .gruconfig (git gru trust)"
)


@dataclass(frozen=True, slots=True)
class Brought:
    """What was fetched: models that are whole here now, blobs, and their bytes as kept."""

    models: int
    blobs: int
    bytes: int


def bring(
    store: Store, remotes: Iterable[Remote], manifests: Sequence[Manifest], progress: Progress | None = None
) -> Brought:
    """Makes these models part of the store, each from the first remote that has it; those that are here already cost nothing.

    Raises `ModelMissingError` naming those that are nowhere, after bringing the others, and `RemoteError` when a remote fails.
    """
    with store.locked(alone=False):
        return _Bring(store, manifests, progress).run(remotes)


class _Bring:
    def __init__(self, store: Store, manifests: Sequence[Manifest], progress: Progress | None) -> None:
        self.store, self.progress = store, progress
        self.wanted = {m.digest: m for m in manifests if not store.has_model(m.digest)}
        self.done, self.all = 0, sum(m.size for m in self.wanted.values())
        self.tried: list[str] = []
        self.models = self.blobs = self.bytes = 0

    def run(self, remotes: Iterable[Remote]) -> Brought:
        failed: list[RemoteError] = []
        for remote in remotes if self.wanted else ():
            try:
                with blamed(remote):
                    self._from(remote)
            except RemoteError as error:
                failed.append(error)
                self.tried.append(f"{remote.name} (failed)")
            if not self.wanted:
                break
        if self.wanted and failed:
            raise failed[0]
        if self.wanted:
            names = ", ".join(digest[:12] for digest in list(self.wanted)[:5])
            more = f" and {len(self.wanted) - 5} more" if len(self.wanted) > 5 else ""
            tried = ", ".join(self.tried) or "there is no remote"
            raise ModelMissingError(
                f"the model {names}{more} is neither in the store {self.store.folder} nor in a remote (tried: {tried})",
                hint=_NOWHERE,
            )
        return Brought(self.models, self.blobs, self.bytes)

    def _from(self, remote: Remote) -> None:
        """Brings what this remote has of the models wanted."""
        objects = self.store.objects
        state = StoreTree(objects, remote.look())
        there = {digest: tree for digest in self.wanted if (tree := state.model(digest)) is not None}
        self.tried.append(remote.name)
        if not there:
            return
        fetch_trees(objects, remote, there.values())
        for digest, tree in there.items():
            manifest = self.wanted[digest]
            blobs = _blobs_of(objects, tree, manifest)
            for batch in _batches(manifest, missing(objects, blobs)):
                remote.blobs([blobs[id] for id, _ in batch])
                self._count([blobs[id] for id, _ in batch], sum(length for _, length in batch))
            _require_whole(objects, blobs, manifest)
            link(self.store, {digest: tree}, ())
            del self.wanted[digest]
            self.models += 1

    def _count(self, oids: Sequence[bytes], raw: int) -> None:
        self.blobs += len(oids)
        self.bytes += sum(self.store.objects.head(oid, 1)[0] for oid in oids)
        self.done = min(self.done + raw, self.all)
        if self.progress is not None:
            self.progress(self.done, self.all)


class Part:
    """A model of which single chunks are brought when they are asked for. Made by `locate`."""

    def __init__(
        self, store: Store, remote: Remote | None, manifest: Manifest, blobs: Mapping[str, bytes]
    ) -> None:
        self.manifest = manifest
        self._store = store
        self._remote = remote
        self._blobs = blobs

    def ensure(self, ids: Iterable[str]) -> None:
        """Brings these chunks and the bases that they need. Raises `RemoteError`."""
        if self._remote is None:
            return
        objects, wanted, seen = self._store.objects, list(dict.fromkeys(ids)), set[str]()
        with self._store.locked(alone=False):
            while wanted:
                blobs = {id: self._blobs[id] for id in wanted if id in self._blobs}
                for batch in _batches(self.manifest, missing(objects, blobs)):
                    self._remote.blobs([blobs[id] for id, _ in batch])
                seen |= blobs.keys()
                bases = (_base(objects, oid, id) for id, oid in blobs.items())
                wanted = [base for base in dict.fromkeys(bases) if base is not None and base not in seen]

    def chunk(self, id: str) -> Buffer:
        """A chunk's bytes, verified, brought where it is not here. Raises `ChunkMissingError`, `ChunkDamagedError`."""
        if self._remote is None:
            return self._store.chunk_of(self.manifest, self._blobs, id)
        try:
            return read_chunk(self._store.objects, self._blobs.get, id)
        except (ObjectMissingError, ChunkMissingError):
            self.ensure([id])
            return read_chunk(self._store.objects, self._blobs.get, id)

    def close(self) -> None:
        """Closes the store that it reads."""
        self._store.close()


def locate(store: Store, remotes: Iterable[Remote], manifest: Manifest) -> Part:
    """The model in this store or in the first remote that has it; nothing but its tree is fetched.

    Raises `ModelMissingError`, `RemoteError`.
    """
    if store.has_model(manifest.digest):
        return Part(store, None, manifest, store.blobs(manifest))
    tried: list[str] = []
    failed: list[RemoteError] = []
    for remote in remotes:
        tried.append(remote.name)
        try:
            with store.locked(alone=False), blamed(remote):
                tree = StoreTree(store.objects, remote.look()).model(manifest.digest)
                if tree is not None:
                    fetch_trees(store.objects, remote, [tree])
                    return Part(store, remote, manifest, _blobs_of(store.objects, tree, manifest))
        except RemoteError as error:
            failed.append(error)
    if failed:
        raise failed[0]
    raise ModelMissingError(
        f"the model {manifest.digest[:12]} is neither in the store {store.folder} nor in a remote "
        f"(tried: {', '.join(tried) or 'there is no remote'})",
        hint=_NOWHERE,
    )


def fetch_trees(objects: Objects, remote: Remote, trees: Iterable[bytes]) -> None:
    """Brings the model trees that are not here."""
    absent = [tree for tree in dict.fromkeys(trees) if not objects.has(tree)]
    if absent:
        remote.trees(absent)


def missing(objects: Objects, blobs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Those of `blobs` (chunk id -> blob) that are not here."""
    return {id: oid for id, oid in blobs.items() if not objects.has(oid)}


def _blobs_of(objects: Objects, tree: bytes, manifest: Manifest) -> dict[str, bytes]:
    """The blobs of a model tree that came from a remote. Raises `TreeError` where it is not this manifest's."""
    blobs = model_blobs(objects, tree)
    chunks = set(manifest.chunks())
    if not chunks <= blobs.keys() or len(blobs) > LONGEST_CHAIN * len(chunks):
        raise TreeError(f"model tree {tree.hex()} is not that of the model {manifest.digest[:12]}")
    return blobs


def _require_whole(objects: Objects, blobs: Mapping[str, bytes], manifest: Manifest) -> None:
    """Raises `ChunkDamagedError` unless every blob is a stored chunk whose bases are among them, down to a plain one."""
    bases = {id: _base(objects, oid, id) for id, oid in blobs.items()}
    for id, base in bases.items():
        if base is not None and base not in blobs:
            raise ChunkDamagedError(
                f"the model {manifest.digest[:12]} came without the base {base[:12]} of its chunk {id[:12]}"
            )
    for id, base in bases.items():
        links = 0
        while base is not None:
            base, links = bases[base], links + 1
            if links >= LONGEST_CHAIN:
                raise ChunkDamagedError(
                    f"the model {manifest.digest[:12]} came with a chunk {id[:12]} whose chain of bases does not end"
                )


def _base(objects: Objects, oid: bytes, id: str) -> str | None:
    """The chunk that a stored chunk is a delta against, or None."""
    where = f"chunk {id[:12]}"
    _, head = objects.head(oid, _HEAD_BYTES)
    if int.from_bytes(bytes(head[:8]), "little") > len(head) - 8:
        head = objects.expect(oid, "blob")
    return inspect(head, where=where).base


def _batches(manifest: Manifest, blobs: Iterable[str]) -> Iterator[list[tuple[str, int]]]:
    """(chunk id, length) of each chunk in `blobs`, in lists of no more than about `BATCH_BYTES`.

    Lengths are those of the decoded chunks; a base that the manifest does not name counts as a whole chunk.
    """
    lengths = {
        id: length
        for entry in manifest.tensors.values()
        for id, length in zip(entry.chunks, cut_lengths(entry.nbytes), strict=False)
    }
    batch: list[tuple[str, int]] = []
    size = 0
    for id in blobs:
        length = lengths.get(id, CHUNK_BYTES)
        if batch and size + length > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append((id, length))
        size += length
    if batch:
        yield batch
