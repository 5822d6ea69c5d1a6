"""Turning the files that the survey found: each distinct blob once, in pieces, verified at both ends.

An import reads a blob of Git, or the file that a pointer stands for, into the store; an export restores a model into the pack of
new objects. What goes in is hashed against its name, what comes out of the store against its chunks' ids.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from git_gru.git.migrate.objects import NewPack, ObjectReader
from git_gru.git.migrate.pointers import CheckedSource, LfsObjects
from git_gru.git.migrate.survey import Found
from git_gru.git.migrate.trees import Place
from git_gru.ids import Buffer
from git_gru.store.chunks import Source
from git_gru.store.ingest import ingest_all
from git_gru.store.manifest import parse_manifest
from git_gru.store.packs import object_hash
from git_gru.store.restore import restore
from git_gru.store.store import Store

Told = Callable[[int], None]
"""Is told how many bytes more have been read or written."""


@dataclass
class Turned:
    """What became of the blobs: old id -> new id. It is the `Blobs` of the rewrite that counts.

    `raw` has the files that are called safetensors and are none: where they were met, and why.
    """

    blobs: dict[bytes, bytes] = field(default_factory=dict)
    raw: list[tuple[Place, str]] = field(default_factory=list)

    def named(self, oid: bytes, place: Place) -> bytes:
        """The blob to put in the place of `oid`; one that was in the wanted form already stays."""
        return self.blobs.get(oid, oid)

    def left(self, oid: bytes, place: Place, filter: str) -> None:
        """The survey has told it."""


def import_files(
    found: Mapping[bytes, Found],
    store: Store,
    reader: ObjectReader,
    lfs: LfsObjects,
    pack: NewPack,
    told: Told,
) -> Turned:
    """Stores the files as models and their manifests as blobs."""
    turned = Turned()
    files = {oid: one for oid, one in found.items() if one.size}
    for oid in found.keys() - files.keys():
        turned.blobs[oid] = pack.put("blob", b"")
    results = ingest_all(store, _sources(files, reader, lfs, told))
    for (oid, one), result in zip(files.items(), results, strict=True):
        turned.blobs[oid] = pack.put("blob", result.manifest.encode())
        if result.warning is not None:
            turned.raw.append((one.place, result.warning.removeprefix("the file: ")))
    return turned


def export_files(
    found: Mapping[bytes, Found], store: Store, reader: ObjectReader, pack: NewPack, told: Told
) -> Turned:
    """Restores the models as blobs. Raises what `restore` raises where a model is not there."""
    turned = Turned()
    for oid, one in found.items():
        manifest = parse_manifest(reader.read(oid, "blob"), where=str(one.place))
        turned.blobs[oid] = pack.put_blob(manifest.size, _counted(restore(store, manifest), told))
    return turned


def _sources(
    files: Mapping[bytes, Found], reader: ObjectReader, lfs: LfsObjects, told: Told
) -> Iterator[tuple[Source, bool]]:
    for oid, one in files.items():
        expected = one.place.path.endswith(b".safetensors")
        if one.pointer is not None:
            with lfs.open(one.pointer) as source:
                yield _CountedSource(source, told), expected
        else:
            sha = object_hash("blob", one.size)
            source = CheckedSource(reader.stream(oid), sha, oid.hex(), f"the blob {oid.hex()}")
            yield _CountedSource(source, told), expected


class _CountedSource:
    """A source that tells what is read of it."""

    def __init__(self, source: Source, told: Told) -> None:
        self._source = source
        self._told = told

    def readinto(self, buffer: memoryview, /) -> int:
        count = self._source.readinto(buffer) or 0
        self._told(count)
        return count


def _counted(pieces: Iterable[Buffer], told: Told) -> Iterator[Buffer]:
    for piece in pieces:
        told(len(piece))
        yield piece
