"""Batches: what is sent or fetched in one piece, so that an interruption costs little.

Both directions cut a model at the same places. A Git server keeps each push as a pack, and looks for deltas between objects that
stand in different packs when it is asked for them together: with chunks of weights it finds none, at 15 MB/s. A fetch that asks
for what was pushed together gets it as it lies there.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from git_gru.store.chunks import CHUNK_BYTES
from git_gru.store.manifest import Manifest

BATCH_BYTES = 1 << 27
"""Most bytes of raw data that are sent or fetched in one piece, give or take a chunk: what an interruption costs at worst."""

Key = TypeVar("Key")


def lengths_of(manifest: Manifest, ids: Iterable[str]) -> dict[str, int]:
    """Chunk id -> about its raw bytes, for some of a model's chunks and their bases: in the order of the file, bases last.

    A base that the manifest does not name counts as a whole chunk.
    """
    known, wanted = manifest.chunk_lengths(), dict.fromkeys(ids)
    own = {id: length for id, length in known.items() if id in wanted}
    return own | {id: CHUNK_BYTES for id in wanted if id not in known}


def batches(lengths: Mapping[Key, int], most: int) -> Iterator[list[Key]]:
    """The keys in lists whose lengths add up to no more than `most` each, or of one key."""
    batch: list[Key] = []
    size = 0
    for key, length in lengths.items():
        if batch and size + length > most:
            yield batch
            batch, size = [], 0
        batch.append(key)
        size += length
    if batch:
        yield batch
