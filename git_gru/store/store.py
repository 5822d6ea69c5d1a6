"""The store: opening it, reading verified chunks, and the references that say what it holds.

A `Store` stands for `<git common dir>/gru`: the bare repository `store.git`, the lookup cache `index.sqlite`, and `lock`, which
writers share and which maintenance takes alone. Reading never locks: a reader that misses an object (re-encoded under it) looks
at the reference once more.
"""

import contextlib
import errno
import fcntl
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from git_gru.errors import StoreError
from git_gru.formats.safetensors import Header, HeaderError, parse_header
from git_gru.ids import Buffer, digest
from git_gru.store.bare import read_ref, run_git
from git_gru.store.codec import ChunkDamagedError, Encoding, decode, inspect, top_plane
from git_gru.store.locking import store_lock
from git_gru.store.manifest import Manifest
from git_gru.store.objects import ObjectMissingError, Objects
from git_gru.store.pack_reader import REPAIR, ObjectDamagedError
from git_gru.store.packs import no_room, sync_folder
from git_gru.store.pipeline import Pool
from git_gru.store.transform import keep_memory
from git_gru.store.trees import StoreTree, model_blobs

if TYPE_CHECKING:
    from git_gru.store.lookup import Lookup
    from git_gru.store.stamps import Stamps
    from git_gru.store.writer import Writer

REF = "refs/gru/store"
BRING = (
    "fetch the model again (git gru fetch REV), or add the file again where you still have it (touch PATH; git add PATH). "
    "Then: git restore --source=HEAD --staged --worktree :/"
)

LONGEST_CHAIN = 64
"""Most deltas that are followed to a plain chunk; repack writes far shorter chains."""

_CONFIG = """[core]
\tcompression = 0
\tfsync = all
[gc]
\tauto = 0
[maintenance]
\tauto = false
[pack]
\tcompression = 0
"""

_ROOM = 1 << 14
"""Where git fails with fewer free bytes than this, the full disk is named as the cause."""

T = TypeVar("T")


class ChunkMissingError(StoreError):
    """A chunk that is not in the store."""


class ModelMissingError(StoreError):
    """Manifests whose models are not in the store, nor (`digests`, if it was asked) in any remote."""

    def __init__(self, message: str, *, hint: str | None = None, digests: Iterable[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.digests = frozenset(digests)


class Store:
    """The store in `folder`. Made by `open` or `find`; safe for several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "store.git"
        self.objects = Objects(self.repository)
        self.supply: Callable[[Sequence[Manifest]], None] | None = None
        """Brings models that this store lacks from elsewhere, or raises; asked when one is read."""
        self._tree: StoreTree | None = None

    @classmethod
    def find(cls, folder: Path) -> "Store | None":
        """The store in `folder` if there is one."""
        return cls(folder) if (folder / "store.git" / "HEAD").is_file() else None

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """The store in `folder`, made where it does not exist. Raises `MachineError` when that cannot be done."""
        store = cls.find(folder)
        return store if store is not None else cls._create(folder)

    @classmethod
    def _create(cls, folder: Path) -> "Store":
        store = cls(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "lock", "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # two first writers: one makes it, the other finds it
                if not (store.repository / "HEAD").is_file():
                    # HEAD is written last by a rename, so that a creation that was killed is begun again: without what
                    # it left, because a git that is killed while it initializes leaves a lock
                    building = folder / "store.new"
                    if building.exists():
                        import shutil

                        shutil.rmtree(building)
                    try:
                        run_git(None, "init", "--quiet", "--bare", "--template=", str(building))
                    except StoreError as error:
                        raise store._explained(error) from None
                    with open(building / "config", "a") as config:
                        config.write(_CONFIG)
                    if store.repository.exists():
                        store.repository.rename(folder / f"store.broken-{os.getpid()}")
                    building.rename(store.repository)
        except OSError as error:
            raise no_room(error, folder) from error
        return store

    @functools.cached_property
    def lookup(self) -> "Lookup":
        """The lookup cache."""
        from git_gru.store.lookup import Lookup  # with it sqlite, which a checkout does without

        return Lookup(self.folder / "index.sqlite")

    @functools.cached_property
    def stamps(self) -> "Stamps":
        """When each model was used; part of the lookup cache."""
        from git_gru.store.stamps import Stamps

        return Stamps(self.lookup)

    @functools.cached_property
    def pool(self) -> Pool:
        """Threads for coding: one a core that this process may use."""
        keep_memory()  # whoever uses the pool is about to code many chunks
        return Pool(self.cores)

    @functools.cached_property
    def cores(self) -> int:
        """How many cores this process may use."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def tip(self) -> bytes | None:
        """The store's commit, or None while it is empty."""
        return read_ref(self.repository, REF)

    def tree(self) -> StoreTree:
        """The state that the reference names now."""
        tip, tree = self.tip(), self._tree
        if tree is None or tree.commit != tip:
            tree = self._tree = StoreTree(self.objects, tip)
        return tree

    def update_ref(self, new: bytes, old: bytes | None) -> bool:
        """Moves the reference from `old` to `new`; False when someone else has moved it meanwhile.

        Written as git's files backend has it, behind a lock that goes with its holder: a `git update-ref` that is killed
        leaves `store.lock` behind, which stops every later one.
        """
        path, building = self.repository / REF, self.folder / "store.ref"
        try:
            with open(self.folder / "ref.lock", "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self.tip() != old:
                    return False
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(building, "wb") as file:
                    file.write(new.hex().encode() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                building.replace(path)
                sync_folder(path.parent)
        except OSError as error:
            raise no_room(error, self.folder) from error
        return True

    def _explained(self, error: StoreError) -> Exception:
        """What made git fail: a full disk, of which git does not always speak, or what it said."""
        space = os.statvfs(self.folder)
        full = space.f_bavail * space.f_frsize < _ROOM
        return no_room(OSError(errno.ENOSPC, ""), self.folder) if full else error

    @contextlib.contextmanager
    def locked(self, *, alone: bool) -> Iterator[None]:
        """Holds the store's lock: shared for writers, alone for maintenance."""
        with store_lock(self.folder, alone=alone):
            yield

    def note_nonfinite(self) -> None:
        """Notes, once and for all, that this store was given a chunk that may hold a NaN or an infinity.

        A file of its own, which a hook sees before Python starts (`hooks/pre-commit`).
        """
        try:
            (self.folder / "nonfinite").touch()
        except OSError as error:
            raise no_room(error, self.folder) from error

    def writer(self, *, expected: int = 0) -> "Writer":
        """A context in which chunks are added and models committed; see `Writer`."""
        from git_gru.store.writer import Writer

        return Writer(self, expected)

    def has_model(self, digest: str) -> bool:
        """Whether the store holds the model of that manifest's digest, or at least its tree."""

        def look() -> bool:
            tree = self.tree().model(digest)
            return tree is not None and self.objects.has(tree)

        return self.read_again(look)

    def models(self) -> dict[str, bytes]:
        """The models: manifest's digest -> id of the model tree."""
        return self.read_again(lambda: self.tree().models())

    def blobs(self, manifest: Manifest) -> dict[str, bytes]:
        """Chunk id -> blob for a model and the bases it needs, brought from elsewhere if need be.

        Raises `ModelMissingError`.
        """
        self.require([manifest])
        return self.read_again(lambda: self._blobs(manifest))

    def require(self, manifests: Iterable[Manifest]) -> None:
        """Brings those of these models that are not here from elsewhere, if there is such a place. Raises what `supply` does."""
        if self.supply is not None:
            absent = [manifest for manifest in manifests if not self.has_model(manifest.digest)]
            if absent:
                self.supply(absent)

    def _blobs(self, manifest: Manifest) -> dict[str, bytes]:
        tree = self.tree().model(manifest.digest)
        if tree is None:
            raise ModelMissingError(
                f"the model {manifest.digest[:12]} is not in the store {self.folder}",
                hint=BRING,
            )
        return model_blobs(self.objects, tree)

    def chunk(self, id: str) -> bytes:
        """A chunk's bytes, verified. Raises `ChunkMissingError` or `ChunkDamagedError`."""
        return bytes(self.read_again(lambda: read_chunk(self.objects, self._blob_of, id)))

    def top_plane(self, id: str) -> Buffer | None:
        """The most significant bytes of a chunk's elements where they are kept apart (`codec.top_plane`), else None."""

        def read() -> Buffer | None:
            where = f"chunk {id[:12]}"
            oid = self._blob_of(id)
            if oid is None:
                raise ChunkMissingError(f"{where} is not in the store {self.folder}", hint=BRING)
            blob = self.objects.expect(oid, "blob")
            return top_plane(blob, inspect(blob, where=where), where=where)

        return self.read_again(read)

    def tensor(self, manifest: Manifest, name: str) -> Iterator[bytes]:
        """The chunks of one tensor in order, decoded and verified. Raises KeyError for an unknown name."""
        chunks = manifest.tensors[name].chunks
        blobs = self.blobs(manifest)
        for id in chunks:
            yield bytes(self.chunk_of(manifest, blobs, id))

    def chunk_of(self, manifest: Manifest, blobs: Mapping[str, bytes], id: str) -> Buffer:
        """A chunk of a model whose `blobs` were these a moment ago; where a repack came between, they are looked up anew.

        One that proves damaged counts as unknown from then on, so that adding its file again writes it anew.
        """
        try:
            try:
                return read_chunk(self.objects, blobs.get, id)
            except (ObjectMissingError, ChunkMissingError):
                return self.read_again(lambda: read_chunk(self.objects, self._blobs(manifest).get, id))
        except (ChunkDamagedError, ObjectDamagedError):
            self.lookup.drop(id)
            raise

    def header(self, manifest: Manifest) -> Header:
        """The parsed safetensors header of a model that is not raw."""
        if manifest.header is None:
            raise StoreError(f"the model {manifest.digest[:12]} is kept raw: it has no safetensors header")
        self.require([manifest])
        data = self.chunk(manifest.header)
        where = f"model {manifest.digest[:12]}"
        try:
            header = parse_header(data, file_size=manifest.size, where=where)
        except HeaderError as error:
            raise ChunkDamagedError(str(error), hint=REPAIR) from None
        if [(t.name, t.dtype, t.shape) for t in header.tensors] != [
            (name, entry.dtype, entry.shape) for name, entry in manifest.tensors.items()
        ]:
            raise ChunkDamagedError(
                f"{where}: its header and its manifest name different tensors", hint=REPAIR
            )
        return header

    def sync(self) -> None:
        """Brings the lookup cache up to date."""
        try:
            self.lookup.sync(self.tree(), self.objects)
        except ObjectMissingError:  # a repack came between the reference and its trees
            self._tree = None
            self.lookup.sync(self.tree(), self.objects)

    def read_again(self, read: Callable[[], T]) -> T:
        """`read()`, once more after looking at the reference anew if an object was re-encoded under it."""
        try:
            return read()
        except (ObjectMissingError, ChunkMissingError):
            self._tree = None
            self.sync()
            return read()

    def close(self) -> None:
        """Stops the threads and closes the files; both come again when they are needed."""
        pool = self.__dict__.pop("pool", None)
        if pool is not None:
            pool.shutdown()
        if "lookup" in self.__dict__:
            self.lookup.close()

    def _blob_of(self, id: str) -> bytes | None:
        self.sync()
        row = self.lookup.get(id)
        return row.oid if row else None


def read_chunk(objects: Objects, blob_of: Callable[[str], bytes | None], id: str) -> Buffer:
    """A chunk's bytes: follows its bases to a plain chunk, decodes back, and compares the result with `id`.

    `blob_of` gives the blob that keeps a chunk. Raises `ChunkMissingError`, `ChunkDamagedError`.
    """
    chain: list[tuple[str, Buffer, Encoding]] = []
    wanted: str | None = id
    while wanted is not None:
        oid = blob_of(wanted)
        if oid is None:
            raise ChunkMissingError(f"chunk {wanted[:12]} is not in the store {objects.folder}", hint=BRING)
        blob = objects.expect(oid, "blob")
        encoding = inspect(blob, where=f"chunk {wanted[:12]}")
        chain.append((wanted, blob, encoding))
        if len(chain) > LONGEST_CHAIN:
            raise ChunkDamagedError(f"chunk {id[:12]}: its chain of bases does not end", hint=REPAIR)
        wanted = encoding.base
    data: Buffer | None = None
    while chain:
        wanted, blob, encoding = chain.pop()
        data = decode(blob, encoding, data, where=f"chunk {wanted[:12]}")
    assert data is not None
    if digest(data) != id:
        raise ChunkDamagedError(
            f"chunk {id[:12]} of the store is damaged: its bytes do not fit its id", hint=REPAIR
        )
    return data
