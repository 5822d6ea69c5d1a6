"""Choosing encodings for a column: the chunks at one place of a model, newest version first.

Deltas point back in time: the newest chunk of a column stays plain, each older one becomes a delta against a newer one where
that is smaller. Candidates are the chunks of the `window` versions before it; a sample of each tells which fits best. A chain
may be `depth` deltas long; when the best candidate stands at the end of a full chain, a new chain begins, either plain or as a
delta against a plain chunk in the window. (Reaching past the full chain to a candidate further up it looks cheaper for one
version, but leaves every later version the same poor choice: measured, it costs more.)

An encoding that already obeys these rules is kept as it is, so that repacking again costs little.
"""

from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence, Set
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class Column:
    """The distinct chunks at one place, newest version first, and the dtype of their tensor."""

    dtype: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """How one chunk is kept from now on. `parts` is its new blob, or None where the old one stays."""

    id: str
    base: str | None
    raw: int
    parts: Sequence[Buffer] | None


@dataclass(slots=True)
class _Candidate:
    """A placed chunk that a later one may use as its base; its bytes are read when they are first needed."""

    id: str
    depth: int
    length: int
    _read: Callable[[str], Buffer]
    _data: Buffer | None = field(default=None)

    @property
    def data(self) -> Buffer:
        if self._data is None:
            self._data = self._read(self.id)
        return self._data


def columns_of(lineages: Sequence[Sequence[Manifest]], known: Container[str]) -> list[Column]:
    """The columns of all lineages (newest version first), of the chunks in `known`. One in several belongs to the first."""
    columns: dict[tuple[int, str, str, tuple[int, ...], int], dict[str, None]] = {}
    seen: set[str] = set()
    for line, versions in enumerate(lineages):
        for manifest in versions:
            for name, entry in manifest.tensors.items():
                for at, id in enumerate(entry.chunks):
                    if id not in seen and id in known:
                        seen.add(id)
                        columns.setdefault((line, name, entry.dtype, entry.shape, at), {})[id] = None
    return [Column(key[2], tuple(ids)) for key, ids in columns.items()]


def place_column(
    column: Column,
    row_of: Callable[[str], ChunkRow],
    read: Callable[[str], Buffer],
    keep_plain: Set[str],
    *,
    depth: int,
    window: int,
) -> Iterator[Placed]:
    """The encodings for a column, newest first. `read` gives a chunk's bytes, verified.

    Memory: `window` + 1 chunks and what encoding one takes.
    """
    depths: dict[str, int] = {}
    recent: deque[_Candidate] = deque(maxlen=window)
    for id in column.ids:
        row = row_of(id)
        this = _Candidate(id, 0, row.raw, read)
        plain = id in keep_plain or not depths
        kept_depth = 0 if row.base is None else depths.get(row.base, depth) + 1
        if row.base is not None and not plain and kept_depth <= depth:
            this.depth = kept_depth
            yield Placed(id, row.base, row.raw, None)
        elif plain and row.base is None:
            yield Placed(id, None, row.raw, None)
        else:
            base = None if plain else _choose(this, recent, column.dtype, depth)
            placed = _encode(this, base, row, column.dtype)
            this.depth = base.depth + 1 if base and placed.base else 0
            yield placed
        depths[id] = this.depth
        recent.appendleft(this)


def _choose(this: _Candidate, recent: deque[_Candidate], dtype: str, depth: int) -> _Candidate | None:
    """The base to use, or None for a plain encoding."""
    fitting = [candidate for candidate in recent if candidate.length == this.length]
    if not fitting or depth < 1:
        return None
    best = _best(this, fitting, dtype)
    if best.depth < depth:
        return best
    heads = [candidate for candidate in fitting if candidate.depth == 0]
    return _best(this, heads, dtype) if heads else None


def _best(this: _Candidate, candidates: Sequence[_Candidate], dtype: str) -> _Candidate:
    """The candidate that a sample says is cheapest, newest first; the search ends where it gets worse `PATIENCE` times."""
    best, cheapest, worse = candidates[0], None, 0
    for candidate in candidates if len(candidates) > 1 else ():
        cost = _estimate(this.data, candidate.data, dtype)
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


def _encode(this: _Candidate, base: _Candidate | None, row: ChunkRow, dtype: str) -> Placed:
    """The smaller of the delta against `base` and the plain encoding."""
    plain = encode_plain(this.data, dtype) if row.base is not None else None
    plain_size = row.stored if plain is None else sum(map(len, plain))
    if base is not None:
        delta = encode_delta(this.data, base.data, base.id, dtype)
        if sum(map(len, delta)) < plain_size:
            return Placed(this.id, base.id, row.raw, delta)
    return Placed(this.id, None, row.raw, plain)
