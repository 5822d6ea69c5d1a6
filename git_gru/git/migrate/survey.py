"""The survey: which files a migration would turn into what, found without writing anything.

It is the `Blobs` of a first rewrite that only names objects. Each distinct blob is looked at once: a small one is read, of a
large one the first bytes. What is in the wanted form already, and the empty file, stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from git_gru.errors import StoreError
from git_gru.git.migrate.objects import EMPTY_BLOB, ObjectReader, object_name
from git_gru.git.migrate.pointers import LfsObjects, Pointer, PointerError, parse_pointer
from git_gru.git.migrate.trees import Direction, Place
from git_gru.git.revisions import MANIFEST_LIMIT
from git_gru.store.manifest import PREFIX, is_manifest, parse_manifest
from git_gru.store.store import ModelMissingError, Store

_READ = 1 << 20
"""A blob up to so many bytes is read whole; a longer one that begins as a manifest does, too."""

_TOLD = 10


class LfsObjectMissingError(StoreError):
    """The files that pointers stand for are not on this machine."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A blob to be turned: where it was met first, the length of the file in bytes, and the pointer or the manifest (`digest`)
    that it is, if it is one.
    """

    place: Place
    size: int
    pointer: Pointer | None = None
    digest: str = ""


@dataclass
class Survey:
    """What was found: `blobs` by their ids in the order met, `versions` as (path, blob), `stays` as path -> filter."""

    direction: Direction
    reader: ObjectReader
    lfs: LfsObjects
    blobs: dict[bytes, Found] = field(default_factory=dict)
    versions: set[tuple[bytes, bytes]] = field(default_factory=set)
    stays: dict[bytes, str] = field(default_factory=dict)
    matched: int = 0
    _kept: set[bytes] = field(default_factory=set)

    def named(self, oid: bytes, place: Place) -> bytes:
        """Takes note of a file; gives a name that stands for what it will be."""
        self.matched += 1
        if oid in self._kept:
            return oid
        if oid not in self.blobs:
            found = self._look(oid, place)
            if found is None:
                self._kept.add(oid)
                return oid
            self.blobs[oid] = found
        self.versions.add((place.path, oid))
        return object_name("blob", b"git-gru: in place of %b" % oid)

    def left(self, oid: bytes, place: Place, filter: str) -> None:
        """Takes note of a file that the attributes keep as it is."""
        self.matched += 1
        self.stays.setdefault(place.path, filter)

    def require_lfs_objects(self) -> None:
        """Raises `LfsObjectMissingError` where files of git-lfs are not on this machine."""
        missing = [
            found for found in self.blobs.values() if found.pointer and not self.lfs.has(found.pointer)
        ]
        if missing:
            raise LfsObjectMissingError(
                f"{_listed(missing, 'git-lfs file')} not in {self.lfs.folder}; nothing was changed:"
                + "".join(
                    f"\n  {found.place}: {found.pointer.oid}" for found in missing[:_TOLD] if found.pointer
                ),
                hint="Bring them: git lfs fetch --all; then run the command again.",
            )

    def require_models(self, store: Store | None) -> None:
        """Raises `ModelMissingError` where models that are to be exported are not in the store."""
        models = [found for found in self.blobs.values() if found.digest]
        missing = [found for found in models if store is None or not store.has_model(found.digest)]
        if missing:
            raise ModelMissingError(
                f"{_listed(missing, 'model')} not in the store; nothing was changed:"
                + "".join(f"\n  {found.place}: {found.digest[:12]}" for found in missing[:_TOLD]),
                hint="Fetch them: git gru fetch --all; then run the command again",
            )

    def _look(self, oid: bytes, place: Place) -> Found | None:
        if oid == EMPTY_BLOB:
            return None
        size = self.reader.size(oid)
        if size <= _READ or (size <= MANIFEST_LIMIT and is_manifest(self.reader.start(oid, len(PREFIX)))):
            data = self.reader.read(oid, "blob")
            manifest = parse_manifest(data, where=str(place)) if is_manifest(data) else None
        else:
            data, manifest = b"", None
        if self.direction is Direction.EXPORT:
            return Found(place=place, size=manifest.size, digest=manifest.digest) if manifest else None
        if manifest:
            return None
        pointer = parse_pointer(data, where=str(place))
        if pointer is not None and self.direction is Direction.FROM_GIT:
            raise PointerError(
                f"{place} is a pointer of git-lfs, not the file itself; nothing was changed",
                hint="Import it with: git gru migrate import --from lfs",
            )
        return Found(place=place, size=pointer.size if pointer else size, pointer=pointer)


def _listed(missing: Sequence[Found], noun: str) -> str:
    """How many are missing, and how many of them are named."""
    more = f" (the first {_TOLD} are listed)" if len(missing) > _TOLD else ""
    return f"{len(missing)} {noun}{' is' if len(missing) == 1 else 's are'}{more}"
