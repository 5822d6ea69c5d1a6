"""Repair: chunks that are damaged or missing here are fetched anew from a remote that has them.

The fetch goes into a store of its own, because git does not fetch an object that it believes to have. What comes from there is
verified, encoded and written as any new chunk, and every model that was told to lack it gets a model tree with the new blob.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from git_gru.errors import GruError, StoreError
from git_gru.ids import Buffer
from git_gru.store.bring import locate
from git_gru.store.manifest import Manifest
from git_gru.store.remote import Remote, RemoteError
from git_gru.store.scratch import scratch_store
from git_gru.store.store import Store

Sources = Callable[[Store], Iterable[Remote]]
"""Gives the remotes as seen from a store."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did: chunks that are whole again, and those that no remote gives (chunk id -> why)."""

    chunks: int
    left: Mapping[str, str]


def repair(store: Store, sources: Sources, broken: Mapping[Manifest, Iterable[str]]) -> Repaired:
    """Fetches the `broken` chunks (model -> chunk ids) anew. What cannot be had is told in the answer, not raised."""
    left: dict[str, str] = {}
    mended: dict[str, None] = {}
    with scratch_store(beside=store) as scratch, store.writer() as writer:
        for manifest, ids in broken.items():
            dtypes = {id: entry.dtype for entry in manifest.tensors.values() for id in entry.chunks}
            wanted = [id for id in dict.fromkeys(ids) if id not in mended]
            for id, found in _fetched(scratch, iter(sources(scratch)), manifest, wanted):
                if isinstance(found, GruError):
                    left[id] = str(found)
                    continue
                store.lookup.drop(id)
                writer.add(found, dtypes.get(id, "U8"))
                mended[id] = None
                left.pop(id, None)
        for manifest in broken:
            if not left.keys() & set(manifest.chunks()):
                writer.commit(manifest)
    return Repaired(len(mended), left)


def _fetched(
    scratch: Store, remotes: Iterator[Remote], manifest: Manifest, ids: Iterable[str]
) -> Iterator[tuple[str, Buffer | GruError]]:
    """The chunks `ids` of a model, each from the first of the remotes that has it intact; or else what was wrong first."""
    left: dict[str, GruError | None] = dict.fromkeys(ids)
    while left:
        try:
            part = locate(scratch, remotes, manifest)
        except (StoreError, RemoteError) as error:
            yield from ((id, wrong or error) for id, wrong in left.items())
            return
        with contextlib.suppress(StoreError, RemoteError):  # where not all can be had: one by one
            part.ensure(left)
        for id in list(left):
            try:
                data = part.chunk(id)
            except (StoreError, RemoteError) as error:
                left[id] = left[id] or error
            else:
                del left[id]
                yield id, data
