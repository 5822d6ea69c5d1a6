"""Restore: a manifest becomes the file's exact bytes again, verified, decoded ahead on all cores."""

from collections.abc import Iterator

from git_gru.ids import Buffer
from git_gru.store.codec import ChunkDamagedError
from git_gru.store.manifest import Manifest
from git_gru.store.pipeline import ordered_map
from git_gru.store.store import Store


def restore(store: Store, manifest: Manifest) -> Iterator[Buffer]:
    """The file's bytes in pieces. Memory is bounded by a few chunks a core.

    Raises `ModelMissingError`, `ChunkMissingError`, `ChunkDamagedError`; what came before is right, but not the whole file. No
    more bytes come than the manifest says, whatever its chunks hold.
    """
    blobs = store.blobs(manifest)

    def decoded(id: str) -> Buffer:
        return store.chunk_of(manifest, blobs, id)

    size = 0
    for data in ordered_map(store.pool, decoded, manifest.chunks(), ahead=store.cores + 2):
        size += len(data)
        if size > manifest.size:
            break
        yield data
    if size != manifest.size:
        raise ChunkDamagedError(
            f"model {manifest.digest[:12]}: its chunks hold {'more' if size > manifest.size else size} bytes, "
            f"its manifest says {manifest.size}"
        )
