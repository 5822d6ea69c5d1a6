"""Bring: models that a remote has become models of this store, each blob fetched once, in batches of bounded size.

A model is made part of `refs/gru/store` only when all that it needs is here and durable, so the local store names whole models
only. What arrived before an interruption stays in the store's packs, is found there by the next try, and is swept by a later
repack if there is none.

Single chunks (one tensor of a large model) are brought through a `Part`: they are readable, but the model does not become one of
the store's.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from git_gru.errors import GruError, StoreError
from git_gru.ids import Buffer
from git_gru.store.batches import BATCH_BYTES, batches, lengths_of
from git_gru.store.codec import ChunkDamagedError, inspect
from git_gru.store.manifest import Manifest
from git_gru.store.objects import ObjectMissingError, Objects
from git_gru.store.pack_reader import REPAIR, ObjectDamagedError
from git_gru.store.remote import Remote, RemoteError, blamed
from git_gru.store.store import LONGEST_CHAIN, ChunkMissingError, ModelMissingError, Store, read_chunk
from git_gru.store.trees import StoreTree, TreeError, model_blobs
from git_gru.store.upkeep import Upkeep
from git_gru.store.writer import link

Progress = Callable[[int, int], None]
"""Told (done, all) in bytes of raw data, an estimate from the manifests."""

_HEAD_BYTES = 1024  # of a stored chunk: as good as always its whole header
_NOWHERE = (
    "Where you still have the file, add it again (touch PATH; git add PATH). Else ask whoever committed it to run "
    "`git gru push`, or name the repository that has it: a remote (git remote add), or its address in .gruconfig (git gru trust)"
)


Found = Callable[[Mapping[str, bytes]], None]
"""Told of models that a remote has, before anything of them comes: manifest's digest -> id of the model tree."""


class Brought(NamedTuple):  # no dataclass: checkouts wait for this file
    """What was fetched: models that are whole here now, blobs, and their bytes as kept."""

    models: int
    blobs: int
    bytes: int


def bring(
    store: Store,
    remotes: Iterable[Remote],
    manifests: Sequence[Manifest],
    progress: Progress | None = None,
    found: Found | None = None,
) -> Brought:
    """Makes these models part of the store, each from the first remote that has it; those that are here already cost nothing.

    Raises `ModelMissingError` naming those that are nowhere, `RemoteError` when a remote fails or has a model that is not what
    it should be, and `ObjectDamagedError` for damage in this store; each after bringing the others.
    """
    with store.locked(alone=False):
        return _Bring(store, manifests, progress, found).run(remotes)


class _Bring:
    def __init__(
        self, store: Store, manifests: Sequence[Manifest], progress: Progress | None, found: Found | None
    ) -> None:
        self.store, self.progress, self.found = store, progress, found
        self.wanted = {m.digest: m for m in manifests if not store.has_model(m.digest)}
        self.done, self.all = 0, sum(m.size for m in self.wanted.values())
        self.tried: list[str] = []
        self.failed: list[GruError] = []
        self.models = self.blobs = self.bytes = 0
        self.objects = store.objects
        self.before = {pack.path for pack in store.objects.packs()}
        self.counted: set[bytes] = set()

    def run(self, remotes: Iterable[Remote]) -> Brought:
        try:
            return self._from_any(remotes)
        finally:
            came = sum(pack.path not in self.before for pack in self.objects.packs())
            if came:
                Upkeep(self.store.lookup).brought(came)

    def _from_any(self, remotes: Iterable[Remote]) -> Brought:
        for remote in remotes if self.wanted else ():
            try:
                with blamed(remote, self.before):
                    self._from(remote)
            except (RemoteError, ObjectDamagedError) as error:
                self.failed.append(error)
                self.tried.append(f"{remote.name} (failed)")
            if not self.wanted:
                break
        if self.wanted and self.failed:
            raise self.failed[0]
        if self.wanted:
            raise _nowhere(self.store, list(self.wanted), self.tried)
        return Brought(self.models, self.blobs, self.bytes)

    def _from(self, remote: Remote) -> None:
        """Brings what this remote has of the models wanted."""
        objects = self.objects
        state = StoreTree(objects, remote.look())
        there = {digest: tree for digest in self.wanted if (tree := state.model(digest)) is not None}
        self.tried.append(remote.name)
        if not there:
            return
        if self.found is not None:
            self.found(there)
        # The first models come with their trees; later ones may share chunks with those here, as only their trees tell
        trees = set(there.values())
        first = self.store.tip() is None and self.all <= BATCH_BYTES and trees == set(objects.absent(trees))
        if first:
            chunks = dict.fromkeys(id for digest in there for id in self.wanted[digest].chunks())
            remote.models(list(there.values()), list(chunks))
        else:
            fetch_trees(objects, remote, there.values())
        for group in self._groups(there):
            blobs: dict[str, dict[str, bytes]] = {}
            lengths: dict[bytes, int] = {}
            for digest in group:
                with self._model(remote):
                    blobs[digest] = _blobs_of(objects, there[digest], self.wanted[digest])
                    wanted = blobs[digest] if first else missing(objects, blobs[digest])
                    of_chunk = lengths_of(self.wanted[digest], wanted)
                    lengths |= {wanted[id]: length for id, length in of_chunk.items()}
            for batch in batches(lengths, BATCH_BYTES):
                if not first:
                    remote.blobs(batch)
                self._tell(sum(lengths[oid] for oid in batch))
            self._link(remote, there, blobs)

    @contextlib.contextmanager
    def _model(self, remote: Remote) -> Iterator[None]:
        """Work on one model: where it proves not to be what it should, the others come nevertheless."""
        try:
            with blamed(remote, self.before):
                yield
        except (RemoteError, ObjectDamagedError) as error:
            self.failed.append(error)

    def _groups(self, there: Iterable[str]) -> Iterator[list[str]]:
        """The models that are fetched and linked together: as many as fit into a batch, or a larger one alone."""
        group: list[str] = []
        size = 0
        for digest in there:
            if group and size + self.wanted[digest].size > BATCH_BYTES:
                yield group
                group, size = [], 0
            group.append(digest)
            size += self.wanted[digest].size
        yield group

    def _link(
        self, remote: Remote, trees: Mapping[str, bytes], blobs: Mapping[str, Mapping[str, bytes]]
    ) -> None:
        """Makes the models whose `blobs` came models of the store, if they are whole."""
        whole: dict[str, bytes] = {}
        for digest in blobs:
            with self._model(remote):
                _require_whole(self.store.objects, blobs[digest], self.wanted[digest])
                whole[digest] = trees[digest]
        if whole:
            self._count(oid for digest in whole for oid in blobs[digest].values())
            link(self.store, whole, ())
        for digest in whole:
            self.store.stamps.stamp(digest, self.wanted.pop(digest).encode())
        self.models += len(whole)

    def _count(self, oids: Iterable[bytes]) -> None:
        """Counts the blobs that came meanwhile: a server without filters sends them with the trees."""
        new = dict.fromkeys(oid for oid in oids if oid not in self.counted)
        came = [oid for oid in new if self.objects.pack_of(oid) not in {*self.before, None}]
        self.counted.update(came)
        self.blobs += len(came)
        self.bytes += sum(self.objects.head(oid, 1)[0] for oid in came)

    def _tell(self, raw: int) -> None:
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
                absent = missing(objects, blobs)
                for batch in batches(lengths_of(self.manifest, absent), BATCH_BYTES):
                    self._remote.blobs([absent[id] for id in batch])
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

    Raises `ModelMissingError`, `RemoteError`, and `ObjectDamagedError` for damage in this store.
    """
    if store.has_model(manifest.digest):
        return Part(store, None, manifest, store.blobs(manifest))
    tried: list[str] = []
    failed: list[GruError] = []
    before = {pack.path for pack in store.objects.packs()}
    for remote in remotes:
        tried.append(remote.name)
        try:
            with store.locked(alone=False), blamed(remote, before):
                tree = StoreTree(store.objects, remote.look()).model(manifest.digest)
                if tree is not None:
                    fetch_trees(store.objects, remote, [tree])
                    return Part(store, remote, manifest, _blobs_of(store.objects, tree, manifest))
        except (RemoteError, ObjectDamagedError) as error:
            failed.append(error)
    if failed:
        raise failed[0]
    raise _nowhere(store, [manifest.digest], tried)


def _nowhere(store: Store, digests: Sequence[str], tried: Sequence[str]) -> ModelMissingError:
    """The error that names models which neither the store nor a remote has."""
    names = ", ".join(digest[:12] for digest in digests[:5])
    more = f" and {len(digests) - 5} more" if len(digests) > 5 else ""
    which = f"model {names} is" if len(digests) == 1 else f"models {names}{more} are"
    return ModelMissingError(
        f"the {which} neither in the store {store.folder} nor in a remote "
        f"(tried: {', '.join(tried) or 'there is no remote'})",
        hint=_NOWHERE,
        digests=digests,
    )


def held_by(store: Store, remote: Remote, manifests: Iterable[Manifest]) -> frozenset[str]:
    """The digests of those of `manifests` which the remote has now, with all of their chunks, and is not about to drop.

    Raises `RemoteError`.
    """
    with store.locked(alone=False), blamed(remote):
        state = StoreTree(store.objects, remote.look())
        there = {m: state.model(m.digest) for m in manifests if m.digest not in state.unneeded}
        trees = {m: tree for m, tree in there.items() if tree is not None}
        fetch_trees(store.objects, remote, trees.values())
        return frozenset(
            m.digest
            for m, tree in trees.items()
            if set(m.chunks()) <= model_blobs(store.objects, tree).keys()
        )


def fetch_trees(objects: Objects, remote: Remote, trees: Iterable[bytes]) -> None:
    """Brings the model trees that are not here."""
    absent = objects.absent(trees)
    if absent:
        remote.trees(absent)


def missing(objects: Objects, blobs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Those of `blobs` (chunk id -> blob) that are not here."""
    absent = set(objects.absent(blobs.values()))
    return {id: oid for id, oid in blobs.items() if oid in absent}


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
    try:
        return inspect(head, where=where).base
    except StoreError as error:
        raise ObjectDamagedError(str(error), hint=REPAIR, pack=objects.pack_of(oid)) from None
