"""Merging the versions of one model, from manifests to a manifest, through the store.

`tensors.threeway` decides tensor by tensor on what the manifests say, so only tensors that several sides
changed are read, chunk by chunk. Chunks are decoded and computed on a few threads, in order, a bounded
number ahead: memory does not depend on the model's size (strategies for whole tensors excepted: those need
their largest tensor in memory).

A conflict leaves ours in place for its tensor and is told in `ModelMerge.conflicts`; the rest of the model
is merged, and the result is in the store either way, so that Git may keep what the merge left.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from git_gru.formats.safetensors import parse_header, write_header
from git_gru.store.chunks import CHUNK_BYTES
from git_gru.store.manifest import Manifest, TensorEntry
from git_gru.store.pipeline import Pool, ordered_map
from git_gru.store.store import Store
from git_gru.store.writer import Writer
from git_gru.tensors.arrays import layout_of
from git_gru.tensors.combine import Job, Tally, WeightsError, combine, normalised, same_chunk
from git_gru.tensors.strategies import STRATEGIES, Strategy
from git_gru.tensors.threeway import (
    Conflict,
    Count,
    CounterOverflowError,
    Decision,
    Delete,
    Merge,
    Take,
    count,
    decide,
    merge_keys,
)

PIECES_IN_MEMORY = 24
"""Chunks of 4 MiB held at once while computing, all sides and threads together."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How tensors that several sides changed are combined: the strategy, the sides' weights (summing to 1)
    and names.
    """

    strategy: Strategy
    weights: tuple[float, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ModelConflict:
    """One tensor that could not be merged (None: the model as a whole), and why; ours was left in place."""

    tensor: str | None
    reason: str

    def __str__(self) -> str:
        return self.reason if self.tensor is None else f"tensor {self.tensor}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of a model's tensors: `unchanged` are equal on all sides, `taken` come from one side (one
    count a side), `combined` went through the strategy, `averaged` were averaged for want of a base,
    `counted` are counters.
    """

    unchanged: int = 0
    taken: tuple[int, ...] = ()
    combined: int = 0
    averaged: int = 0
    counted: int = 0
    deleted: int = 0
    conflicts: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        longer, shorter = sorted((self.taken, other.taken), key=len, reverse=True)
        return Counts(
            unchanged=self.unchanged + other.unchanged,
            taken=tuple(a + b for a, b in zip_longest(longer, shorter, fillvalue=0)),
            combined=self.combined + other.combined,
            averaged=self.averaged + other.averaged,
            counted=self.counted + other.counted,
            deleted=self.deleted + other.deleted,
            conflicts=self.conflicts + other.conflicts,
        )

    @classmethod
    def of(cls, decisions: Iterable[Decision], sides: int, strategy: Strategy) -> "Counts":
        """The counts of these decisions."""
        made = list(decisions)
        taken = [take.side for take in made if isinstance(take, Take) and not take.unchanged]
        merges = [merge for merge in made if isinstance(merge, Merge)]
        baseless = sum(1 for merge in merges if strategy.needs_base and not merge.base)
        return cls(
            unchanged=sum(1 for take in made if isinstance(take, Take) and take.unchanged),
            taken=tuple(taken.count(side) for side in range(sides)),
            combined=len(merges) - baseless,
            averaged=baseless,
            counted=sum(1 for decision in made if isinstance(decision, Count)),
            deleted=sum(1 for decision in made if isinstance(decision, Delete)),
            conflicts=sum(1 for decision in made if isinstance(decision, Conflict)),
        )


@dataclass(frozen=True, kw_only=True)
class ModelMerge:
    """The merged model and what was done. `disputed` are `__metadata__` keys on which the sides disagree
    (ours was kept; that is no conflict).
    """

    manifest: Manifest
    counts: Counts
    conflicts: tuple[ModelConflict, ...] = ()
    disputed: tuple[str, ...] = ()
    tally: Tally = field(default_factory=Tally)


def decisions(base: Manifest | None, sides: Sequence[Manifest], labels: Sequence[str]) -> dict[str, Decision]:
    """What becomes of each tensor: ours' in their order, then those that others have in addition, then the
    base's.
    """
    versions = (*sides, *([base] if base else []))
    names = dict.fromkeys(name for version in versions for name in version.tensors)
    return {
        name: decide(
            base.tensors.get(name) if base else None, [side.tensors.get(name) for side in sides], labels
        )
        for name in names
    }


def merge_models(store: Store, base: Manifest | None, sides: Sequence[Manifest], rules: Rules) -> ModelMerge:
    """Merges versions of one model; `sides[0]` is ours. The result is durable in the store when this returns.

    Versions that are not here are brought from a remote. Raises `StoreError` when a chunk that is needed is missing or damaged.
    """
    changed = [index for index, side in enumerate(sides) if base is None or side.digest != base.digest]
    made = decisions(base, sides, rules.labels)
    counts = Counts.of(made.values(), len(sides), rules.strategy)
    if all(side.digest == sides[0].digest for side in sides):
        return ModelMerge(manifest=sides[0], counts=counts)
    if len(changed) == 1:
        # Its exact bytes: the header's spelling and padding too.
        return ModelMerge(manifest=sides[changed[0]], counts=counts)
    if base is None:
        names = " and ".join(rules.labels[index] for index in changed)
        # Two networks that were never one: the mean of their weights means nothing
        conflict = ModelConflict(None, f"{names} added different models, with no version in common")
        return ModelMerge(manifest=sides[0], counts=Counts(conflicts=1), conflicts=(conflict,))
    if any(version.is_raw for version in (*sides, *([base] if base else []))):
        names = " and ".join(rules.labels[index] for index in changed)
        conflict = ModelConflict(None, f"{names} differ, and not all versions are safetensors files")
        return ModelMerge(manifest=sides[0], counts=Counts(conflicts=1), conflicts=(conflict,))
    store.require([*sides, *([base] if base else [])])
    return _Merger(store, base, sides, rules).run(made)


@dataclass(frozen=True)
class _Piece:
    """A run of chunks of one tensor to compute: what to read of the base and of each side."""

    job: Job
    base: tuple[str, ...] | None
    sides: tuple[tuple[str, ...], ...]
    start: int


@dataclass(frozen=True)
class _Recipe:
    """How a tensor's chunks come about: ids to copy, and pieces to compute, in order."""

    job: Job
    parts: tuple[str | _Piece, ...]


class _Merger:
    """One merge of safetensors models on its way; `run` once."""

    def __init__(self, store: Store, base: Manifest | None, sides: Sequence[Manifest], rules: Rules) -> None:
        self._store = store
        self._base = base
        self._sides = sides
        self._rules = rules
        self._conflicts: list[ModelConflict] = []
        self._tally = Tally()

    def run(self, decisions: dict[str, Decision]) -> ModelMerge:
        recipes = {
            name: self._recipe(name, made) for name, made in decisions.items() if isinstance(made, Merge)
        }
        pieces = (part for recipe in recipes.values() for part in recipe.parts if isinstance(part, _Piece))
        threads = max(1, min(os.cpu_count() or 1, PIECES_IN_MEMORY // (len(self._sides) + 2) - 1))
        entries: dict[str, TensorEntry] = {}
        with self._store.writer() as writer, Pool(threads) as pool:
            computed = ordered_map(pool, self._compute, pieces, ahead=threads + 1)
            for name, decision in list(decisions.items()):
                if isinstance(decision, Count):
                    decision = decisions[name] = self._count(writer, name, decision, entries)
                if isinstance(decision, Merge):
                    entries[name] = self._assemble(writer, name, decision, recipes[name], computed)
                elif isinstance(decision, Take):
                    entries[name] = self._sides[decision.side].tensors[name]
                elif isinstance(decision, Conflict):
                    self._conflicts.append(ModelConflict(name, decision.reason))
                    if name in self._sides[0].tensors:
                        entries[name] = self._sides[0].tensors[name]
            manifest, disputed = self._headed(writer, entries)
            writer.commit(manifest)
        return ModelMerge(
            manifest=manifest,
            counts=Counts.of(decisions.values(), len(self._sides), self._rules.strategy),
            conflicts=tuple(self._conflicts),
            disputed=disputed,
            tally=self._tally,
        )

    def _recipe(self, name: str, decision: Merge) -> _Recipe:
        strategy = self._rules.strategy
        if strategy.needs_base and not decision.base:
            strategy = STRATEGIES["average"]
        entries = [self._sides[index].tensors[name] for index in decision.sides]
        base = self._base.tensors[name] if self._base and strategy.needs_base else None
        job = Job(
            tensor=name, dtype=entries[0].dtype, strategy=strategy, weights=self._weights(decision.sides)
        )
        if strategy.whole_tensor:
            piece = _Piece(job, base.chunks if base else None, tuple(entry.chunks for entry in entries), 0)
            return _Recipe(job, (piece,))
        elements = CHUNK_BYTES // layout_of(job.dtype).width
        parts: list[str | _Piece] = []
        for index, ids in enumerate(zip(*(entry.chunks for entry in entries), strict=True)):
            base_id = base.chunks[index] if base else None
            chosen = same_chunk(strategy, base_id, ids)
            if chosen is not None:
                parts.append(ids[chosen])
            else:
                before = None if base_id is None else (base_id,)
                parts.append(_Piece(job, before, tuple((id,) for id in ids), index * elements))
        return _Recipe(job, tuple(parts))

    def _weights(self, sides: Sequence[int]) -> tuple[float, ...]:
        try:
            return normalised([self._rules.weights[index] for index in sides])
        except WeightsError:
            # Only sides without weight have this tensor: none is better than another.
            return normalised([1.0] * len(sides))

    def _compute(self, piece: _Piece) -> tuple[bytes, Tally]:
        read = self._store.chunk
        base = None if piece.base is None else b"".join(map(read, piece.base))
        sides = [b"".join(map(read, chunks)) for chunks in piece.sides]
        return combine(piece.job, base, sides, start=piece.start)

    def _assemble(
        self,
        writer: Writer,
        name: str,
        decision: Merge,
        recipe: _Recipe,
        computed: Iterator[tuple[bytes, Tally]],
    ) -> TensorEntry:
        first = self._sides[decision.sides[0]].tensors[name]
        chunks: list[str] = []
        for part in recipe.parts:
            if isinstance(part, str):
                chunks.append(part)
                continue
            data, tally = next(computed)
            self._tally += tally
            for start in range(0, len(data), CHUNK_BYTES):
                chunks.append(writer.add(data[start : start + CHUNK_BYTES], first.dtype))
        return TensorEntry(first.dtype, first.shape, tuple(chunks))

    def _count(self, writer: Writer, name: str, decision: Count, entries: dict[str, TensorEntry]) -> Decision:
        """Adds up a counter into `entries`; a conflict where its dtype cannot hold the sum."""
        assert self._base is not None
        base = self._base.tensors[name]
        sides = [self._sides[index].tensors[name] for index in decision.sides]
        start, *values = (b"".join(map(self._store.chunk, entry.chunks)) for entry in (base, *sides))
        try:
            total = count(base.dtype, start, values)
        except CounterOverflowError as error:
            return Conflict(str(error))
        entries[name] = TensorEntry(base.dtype, base.shape, (writer.add(total, base.dtype),))
        return decision

    def _headed(self, writer: Writer, entries: dict[str, TensorEntry]) -> tuple[Manifest, tuple[str, ...]]:
        """The manifest of the merged tensors: under a side's own header, byte for byte, where one fits;
        else a new one.
        """
        base_keys = self._store.header(self._base).metadata if self._base else {}
        side_keys = [self._store.header(side).metadata for side in self._sides]
        metadata, disputed = merge_keys(base_keys, side_keys)
        for side, keys in self._by_header():
            if side_keys[keys] == metadata and _layout(side.tensors) == _layout(entries):
                ordered = {name: entries[name] for name in side.tensors}
                return Manifest(side.size, side.header, ordered), disputed
        data = write_header(((name, entry.dtype, entry.shape) for name, entry in entries.items()), metadata)
        header = parse_header(data, file_size=None, where="the merged model")
        ordered = {info.name: entries[info.name] for info in header.tensors}
        return Manifest(header.file_size, writer.add(data, "U8"), ordered), disputed

    def _by_header(self) -> list[tuple[Manifest, int]]:
        """The sides, those first whose header is not the base's: of two that would fit, the one somebody
        wrote since.
        """
        old = self._base.header if self._base else None
        sides = [(side, index) for index, side in enumerate(self._sides)]
        return sorted(sides, key=lambda entry: entry[0].header == old)


def _layout(entries: dict[str, TensorEntry]) -> set[tuple[str, str, tuple[int, ...]]]:
    return {(name, entry.dtype, entry.shape) for name, entry in entries.items()}
