"""Repack: older versions become deltas against newer ones, in few packs. Chunk ids and manifests never change.

It chooses the encodings (`columns`); a `Rewrite` puts them into the store, beside readers and writers.
"""

import threading
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from git_gru.errors import InputError, StoreError
from git_gru.store.columns import DEPTH, WINDOW, Column, columns_of, place_column
from git_gru.store.manifest import Manifest
from git_gru.store.packs import make_entry
from git_gru.store.pipeline import ordered_map
from git_gru.store.rewrite import Rewrite, mostly_used, one_at_a_time
from git_gru.store.store import Store
from git_gru.store.trees import model_blobs

DEEPEST = 16
"""Longest chain that may be asked for; readers follow `store.LONGEST_CHAIN`, far more."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RepackReport:
    """What a repack did: sizes of all packs in bytes, and how many chunks were encoded anew."""

    models: int
    chunks: int
    rewritten: int
    bytes_before: int
    bytes_after: int
    packs_before: int
    packs_after: int


def repack(
    store: Store,
    lineages: Sequence[Sequence[Manifest]],
    keep_plain: Set[str],
    *,
    depth: int = DEPTH,
    window: int = WINDOW,
    progress: Progress | None = None,
) -> RepackReport:
    """Re-encodes the store. A lineage holds the versions of one model, newest first.

    Models whose digests are in `keep_plain`, and the newest of each lineage, keep plain encodings. Models that no lineage names
    are kept as they are. `progress` is told (done, all) in bytes of raw data. Raises `RewriteRunningError`.
    """
    if not 0 <= depth <= DEEPEST:
        raise InputError(
            f"the depth {depth} is not between 0 and {DEEPEST}: longer chains take too long to restore"
        )
    with one_at_a_time(store):
        own = {manifest.digest: manifest.chunks() for line in lineages for manifest in line}
        with Rewrite(store, own=own) as work:
            _require_whole(store, work)
            _Choice(work, lineages, keep_plain, depth, window, progress).run()
            _shorten(work, depth)
            work.copy(mostly_used)
            work.swap()
        after = [pack.size for pack in store.objects.packs()]
        return RepackReport(
            models=len(store.models()),
            chunks=len(work.rows),
            rewritten=work.rewritten,
            bytes_before=sum(pack.size for pack in work.packs),
            bytes_after=sum(after),
            packs_before=len(work.packs),
            packs_after=len(after),
        )


class _Choice:
    """The encodings of all columns; new blobs go to the pack at once, so that memory stays bounded."""

    def __init__(
        self,
        work: Rewrite,
        lineages: Sequence[Sequence[Manifest]],
        keep_plain: Set[str],
        depth: int,
        window: int,
        progress: Progress | None,
    ) -> None:
        self.work, self.depth, self.window, self.progress = work, depth, window, progress
        present = [[manifest for manifest in line if manifest.digest in work.models] for line in lineages]
        self.columns = columns_of(present, work.rows)
        self.plain = {
            id
            for line in present
            for at, manifest in enumerate(line)
            if at == 0 or manifest.digest in keep_plain
            for id in manifest.chunks()
        }
        self.all = sum(work.rows[id].raw for column in self.columns for id in column.ids)
        self.done = 0
        self.counting = threading.Lock()

    def run(self) -> None:
        store = self.work.store
        for _ in ordered_map(store.pool, self._place, self.columns, ahead=store.cores + 1):
            pass

    def _place(self, column: Column) -> None:
        placed = place_column(
            column,
            self.work.rows.__getitem__,
            self.work.read,
            self.plain,
            depth=self.depth,
            window=self.window,
        )
        for chunk in placed:
            if chunk.parts is not None:
                self.work.encode(chunk.id, chunk.base, make_entry("blob", chunk.parts))
            with self.counting:
                self.done += chunk.raw
                if self.progress is not None:
                    self.progress(self.done, self.all)


def _shorten(work: Rewrite, depth: int) -> None:
    """Cuts chains that grew: a chunk that no lineage names keeps its encoding while its base may get a base itself."""
    depths: dict[str, int] = {}
    for id in work.bases:
        chain = []
        wanted: str | None = id
        while wanted is not None and wanted not in depths:
            chain.append(wanted)
            wanted = work.bases[wanted]
        for link in reversed(chain):
            base = work.bases[link]
            depths[link] = 0 if base is None else depths[base] + 1
    cuts: dict[str, None] = {}
    for id, long in depths.items():
        if long > depth + DEPTH:
            # The first link beyond the chosen encodings: what hangs below it keeps its own.
            while depths[id] > depth + 1 and (base := work.bases[id]) is not None:
                id = base
            cuts[id] = None
    for id in cuts:
        work.make_plain(id)


def _require_whole(store: Store, work: Rewrite) -> None:
    """Raises `StoreError` where a model of the store lacks chunks: repacking would carry the hole on and delete the evidence."""
    for digest, tree in work.models.items():
        try:
            whole = model_blobs(store.objects, tree).keys() <= work.rows.keys()
        except StoreError:
            whole = False
        if not whole:
            raise StoreError(
                f"chunks of the model {digest[:12]} are missing or damaged: a store is repacked only when whole",
                hint="add the file again where you still have it (touch PATH; git add PATH), or restore a backup of "
                ".git/gru; then repack",
            )
