"""Restore: a manifest becomes the file's exact bytes again, verified, decoded ahead on all cores."""

from collections.abc import Iterable, Iterator, Mapping

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
    yield from whole(manifest, decoded(store, manifest, store.blobs(manifest), manifest.chunks()))


def decoded(
    store: Store, manifest: Manifest, blobs: Mapping[str, bytes], ids: Iterable[str]
) -> Iterator[Buffer]:
    """Chunks of a model whose `blobs` were these a moment ago, verified, in order. Raises as `Store.chunk_of`."""
    return ordered_map(store.pool, lambda id: store.chunk_of(manifest, blobs, id), ids, ahead=store.cores + 2)


def whole(manifest: Manifest, chunks: Iterable[Buffer]) -> Iterator[Buffer]:
    """A model's chunks, as long as they are no more than the manifest says. Raises `ChunkDamagedError`."""
    size = 0
    for data in chunks:
        size += len(data)
        if size > manifest.size:
            break
        yield data
    if size != manifest.size:
        raise ChunkDamagedError(
            f"model {manifest.digest[:12]}: its chunks hold {'more' if size > manifest.size else size} bytes, "
            f"its manifest says {manifest.size}"
        )
