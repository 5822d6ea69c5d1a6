"""Choosing encodings for a column: the chunks at one place of models with the same tensors, newest version first.

A *lineage* is one model's versions; a column holds those of one lineage after the other. Deltas point back in time: the newest
chunk of a column stays plain, each older one becomes a delta against a newer one where that is smaller. Candidates are the chunks
of the `window` versions before it in its lineage. Where there are none (the first of a lineage, which another was copied to or
renamed from), or where none of them helps, they are those of other lineages that are nearest to it in *rank*, the place in the
whole history. A sample of each tells which fits best.

A chain may be `depth` deltas long; when the best candidate stands at the end of a full chain, a new chain begins, either plain or
as a delta against a plain chunk in the window. (Reaching past the full chain to a candidate further up it looks cheaper for one
version, but leaves every later version the same poor choice: measured, it costs more.)

An encoding that already obeys these rules is kept as it is, so that repacking again costs little.
"""

import bisect
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from git_gru.ids import Buffer
from git_gru.store.codec import encode_delta, encode_plain
from git_gru.store.lookup import ChunkRow
from git_gru.store.manifest import Manifest

DEPTH = 3
"""Longest chain of deltas (docs/benchmarks.md has the measurements that chose it)."""

WINDOW = 6
"""How many newer versions are candidates for a base."""

PATIENCE = 2
"""Candidates in a row that may be worse than the best one before the search ends (two branches may alternate)."""

SAMPLE = 1 << 16
"""Bytes from the middle of a chunk by which candidates are compared."""


class Place(NamedTuple):
    """One chunk of a column: its id, the number of its lineage, and its rank."""

    id: str
    lineage: int
    rank: int


@dataclass(frozen=True, slots=True)
class Column:
    """The distinct chunks at one place, each lineage's newest version first, and the dtype of their tensor."""

    dtype: str
    places: tuple[Place, ...]


class Columns:
    """Sorts the chunks of models into columns. `known` has the ids of those that count, each by itself: one string an id."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = known
        self._seen: set[str] = set()
        self._places: dict[tuple[str, str, tuple[int, ...], int], list[Place]] = {}

    def add(self, manifest: Manifest, lineage: int, rank: int) -> None:
        """The chunks of one more model. One that stands in several columns belongs to the first."""
        for name, entry in manifest.tensors.items():
            for number, id in enumerate(entry.chunks):
                known = self._known.get(id)
                if known is not None and known not in self._seen:
                    self._seen.add(known)
                    place = self._places.setdefault((name, entry.dtype, entry.shape, number), [])
                    place.append(Place(known, lineage, rank))

    def made(self) -> list[Column]:
        """The columns."""
        return [Column(dtype, tuple(places)) for (_, dtype, *_), places in self._places.items()]


@dataclass(frozen=True, slots=True)
class Placed:
    """How one chunk is kept from now on. `parts` is its new blob, or None where the old one stays; `plain` is what its plain
    encoding takes, where it came to be known.
    """

    id: str
    base: str | None
    raw: int
    parts: Sequence[Buffer] | None
    plain: int | None = None

    @property
    def is_settled(self) -> bool:
        """Whether deltas were made, and none was smaller than the plain encoding."""
        return self.base is None and self.plain is not None


@dataclass(frozen=True, slots=True)
class Rules:
    """What a choice goes by: chunks that must be `plain`, chunks whose plain encodings are `settled` (deltas of them were tried
    before), the longest chain, and how many candidates there are.
    """

    plain: Set[str]
    settled: Set[str]
    depth: int
    window: int


class _Candidate(NamedTuple):
    """A placed chunk that a later one may use as its base."""

    id: str
    depth: int
    length: int


def place_column(
    column: Column, row_of: Callable[[str], ChunkRow], read: Callable[[str], Buffer], rules: Rules
) -> Iterator[Placed]:
    """The encodings for a column, in its order. `read` gives a chunk's bytes, verified.

    Memory: `window` + 1 chunks and what encoding one takes.
    """
    choice = _Choice(column.dtype, _Shelf(read, rules.window + 1), rules.depth)
    depths: dict[str, int] = {}
    recent: deque[_Candidate] = deque(maxlen=rules.window)
    others = _Ranked(rules.window)
    lineage = -1
    for id, its_lineage, rank in column.places:
        if its_lineage != lineage:
            recent.clear()
            lineage = its_lineage
        row = row_of(id)
        plain = id in rules.plain or not depths
        kept_depth = 0 if row.base is None else depths.get(row.base, rules.depth) + 1
        if row.base is not None and not plain and kept_depth <= rules.depth:
            placed = Placed(id, row.base, row.raw, None)
        elif row.base is None and (plain or id in rules.settled):
            placed = Placed(id, None, row.raw, None)
        else:
            placed = choice.encode(id, row, () if plain else (recent, others.near(rank)))
        depths[id] = 0 if placed.base is None else depths[placed.base] + 1
        candidate = _Candidate(id, depths[id], row.raw)
        recent.appendleft(candidate)
        others.add(rank, candidate)
        yield placed


class _Shelf:
    """The chunks that were read last."""

    def __init__(self, read: Callable[[str], Buffer], room: int) -> None:
        self._read = read
        self._room = room
        self._chunks: OrderedDict[str, Buffer] = OrderedDict()

    def get(self, id: str) -> Buffer:
        """A chunk's bytes."""
        data = self._chunks.pop(id, None)
        if data is None:
            data = self._read(id)
        self._chunks[id] = data
        if len(self._chunks) > self._room:
            self._chunks.popitem(last=False)
        return data


class _Ranked:
    """All candidates of a column, by rank."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._ranks: list[int] = []
        self._candidates: list[_Candidate] = []

    def add(self, rank: int, candidate: _Candidate) -> None:
        """Puts a candidate in its place."""
        at = bisect.bisect_left(self._ranks, rank)
        self._ranks.insert(at, rank)
        self._candidates.insert(at, candidate)

    def near(self, rank: int) -> list[_Candidate]:
        """The candidates nearest to a rank, nearest first."""
        at = bisect.bisect_left(self._ranks, rank)
        around = range(max(0, at - self._window), min(len(self._ranks), at + self._window))
        nearest = sorted(around, key=lambda place: abs(self._ranks[place] - rank))
        return [self._candidates[place] for place in nearest[: self._window]]


class _Choice:
    """Encodes chunks against the candidate that suits them best."""

    def __init__(self, dtype: str, shelf: _Shelf, depth: int) -> None:
        self._dtype = dtype
        self._shelf = shelf
        self._depth = depth

    def encode(self, id: str, row: ChunkRow, circles: Sequence[Collection[_Candidate]]) -> Placed:
        """The smaller of a delta and the plain encoding. The first circle of candidates that gives a delta gives the base."""
        data = self._shelf.get(id)
        plain = encode_plain(data, self._dtype) if row.base is not None else None
        size = row.stored if plain is None else sum(map(len, plain))
        tried: set[str] = set()
        for candidates in circles:
            fitting = [one for one in candidates if one.length == row.raw and one.id not in tried]
            base = self._best_within_depth(data, fitting)
            if base is not None:
                tried.update(one.id for one in fitting)
                delta = encode_delta(data, self._shelf.get(base.id), base.id, self._dtype)
                if sum(map(len, delta)) < size:
                    return Placed(id, base.id, row.raw, delta, size)
        return Placed(id, None, row.raw, plain, size if tried else None)

    def _best_within_depth(self, data: Buffer, candidates: Sequence[_Candidate]) -> _Candidate | None:
        """The base to use, or None for a plain encoding."""
        if not candidates or self._depth < 1:
            return None
        best = self._best(data, candidates)
        if best.depth < self._depth:
            return best
        heads = [one for one in candidates if one.depth == 0]
        return self._best(data, heads) if heads else None

    def _best(self, data: Buffer, candidates: Sequence[_Candidate]) -> _Candidate:
        """The candidate that a sample says is cheapest; the search ends where it gets worse `PATIENCE` times."""
        best, cheapest, worse = candidates[0], None, 0
        for candidate in candidates if len(candidates) > 1 else ():
            cost = _estimate(data, self._shelf.get(candidate.id), self._dtype)
            if cheapest is None or cost < cheapest:
                best, cheapest, worse = candidate, cost, 0
            else:
                worse += 1
                if worse == PATIENCE:
                    break
        return best


def _estimate(data: Buffer, base: Buffer, dtype: str) -> int:
    """Bytes that a sample of `data` takes as a delta against the same part of `base`."""
    start = max(0, (len(data) - SAMPLE) // 2) & ~7
    end = min(len(data), start + SAMPLE)
    return sum(map(len, encode_delta(memoryview(data)[start:end], memoryview(base)[start:end], "", dtype)))
