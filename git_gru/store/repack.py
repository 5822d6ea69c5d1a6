"""Repack: older versions become deltas against newer ones, in few packs. Chunk ids and manifests never change.

It chooses the encodings (`columns`); a `Rewrite` puts them into the store, beside readers and writers.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from git_gru.errors import InputError, StoreError
from git_gru.store.columns import DEPTH, WINDOW, Column, Columns, Rules, place_column
from git_gru.store.locking import one_at_a_time
from git_gru.store.manifest import Manifest
from git_gru.store.pipeline import ordered_map
from git_gru.store.rewrite import Rewrite, chain_lengths, mostly_used
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
    lineages: Iterable[Iterable[Manifest]],
    keep_plain: Set[str],
    *,
    ranks: Mapping[str, int] | None = None,
    depth: int = DEPTH,
    window: int = WINDOW,
    anew: bool = True,
    progress: Progress | None = None,
) -> RepackReport:
    """Re-encodes the store. A lineage holds the versions of one model, newest first; `ranks` says how new each is among all
    (digest -> rank, that of the newest is 0; by default its place in its lineage).

    Models whose digests are in `keep_plain`, and the newest of all with the same tensors, keep plain encodings. Models that no
    lineage names are kept as they are. Without `anew`, chunks of which earlier repacks found no smaller delta are not tried.
    `progress` is told (done, all) in bytes of raw data. Raises `RewriteRunningError`.
    """
    if not 0 <= depth <= DEEPEST:
        raise InputError(
            f"the depth {depth} is not between 0 and {DEEPEST}: longer chains take too long to restore"
        )
    with one_at_a_time(store.folder):
        with Rewrite(store) as work:
            _require_whole(store, work)
            plan = _arrange(work, lineages, keep_plain, ranks or {})
            rules = Rules(plan.plain, frozenset() if anew else store.lookup.settled(), depth, window)
            choice = _Choice(work, plan.columns, rules, progress)
            choice.run()
            _shorten(work, depth)
            work.copy(mostly_used)
            work.swap()
            store.lookup.note_plain(choice.plain_sizes, choice.settled)
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


class _Arranged(NamedTuple):
    """All columns, and the chunks that stay plain."""

    columns: list[Column]
    plain: set[str]


def _arrange(
    work: Rewrite, lineages: Iterable[Iterable[Manifest]], keep_plain: Set[str], ranks: Mapping[str, int]
) -> _Arranged:
    """Sorts the chunks of all lineages into columns, and tells `work` what each model's own chunks are.

    Each manifest is looked at once and not kept.
    """
    ids = {id: id for id in work.rows}  # one string for each id, however many manifests name it
    columns = Columns(ids)
    plain: set[str] = set()
    for line, versions in enumerate(lineages):
        for at, manifest in enumerate(versions):
            if manifest.digest not in work.models:
                continue
            own = work.own[manifest.digest] = tuple(ids.get(id, id) for id in manifest.chunks())
            if manifest.digest in keep_plain:
                plain.update(own)
            columns.add(manifest, line, ranks.get(manifest.digest, at))
    return _Arranged(columns.made(), plain)


class _Choice:
    """The encodings of all columns; new blobs go to the pack at once, so that memory stays bounded."""

    def __init__(
        self, work: Rewrite, columns: Sequence[Column], rules: Rules, progress: Progress | None
    ) -> None:
        self.work, self.columns, self.rules, self.progress = work, columns, rules, progress
        self.plain_sizes: dict[str, int] = {}
        self.settled: list[str] = []
        self._all = sum(work.rows[place.id].raw for column in columns for place in column.places)
        self._done = 0
        self._counting = threading.Lock()

    def run(self) -> None:
        store = self.work.store
        for _ in ordered_map(store.pool, self._place, self.columns, ahead=store.cores + 1):
            pass

    def _place(self, column: Column) -> None:
        for chunk in place_column(column, self.work.rows.__getitem__, self.work.read, self.rules):
            if chunk.parts is not None:
                self.work.encode(chunk.id, chunk.base, chunk.parts)
            with self._counting:
                if chunk.is_settled:
                    self.settled.append(chunk.id)
                elif chunk.plain is not None:
                    self.plain_sizes[chunk.id] = chunk.plain
                self._done += chunk.raw
                if self.progress is not None:
                    self.progress(self._done, self._all)


def _shorten(work: Rewrite, depth: int) -> None:
    """Cuts chains that grew: a chunk that no lineage names keeps its encoding while its base may get a base itself."""
    depths = chain_lengths(work.bases)
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
