"""Comparing two versions of a model: manifests first, and then only the tensors that differ are read.

A version is a manifest and a way to its chunks: out of the store, or straight from a file of the worktree,
which need not be in the store. Of a tensor that differs, chunks that are equal are read once (norms and
cosine need them all).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from git_gru.errors import InputError
from git_gru.formats.safetensors import LENGTH_BYTES, Header, json_length, parse_header
from git_gru.store.chunks import CHUNK_BYTES
from git_gru.store.manifest import Manifest, TensorEntry
from git_gru.store.pipeline import Pool, ordered_map
from git_gru.store.store import Store
from git_gru.tensors.diff import TensorComparison, TensorDiff
from git_gru.tensors.gates import gate_ranges, gru_parameters

Status = Literal["changed", "added", "removed", "reshaped", "renamed"]


class Version(Protocol):
    """One version of a model."""

    @property
    def manifest(self) -> Manifest:
        """What the version is made of."""
        ...

    @property
    def metadata(self) -> dict[str, str]:
        """The file's `__metadata__`; empty for a file that is not safetensors."""
        ...

    def chunk(self, tensor: str, index: int) -> bytes:
        """Chunk `index` of a tensor."""
        ...


@dataclass(frozen=True)
class StoredVersion:
    """A version whose chunks are in the store (which is opened when the first is read)."""

    manifest: Manifest
    opened: Callable[[], Store]

    @property
    def metadata(self) -> dict[str, str]:
        """See `Version`."""
        return {} if self.manifest.is_raw else self.opened().header(self.manifest).metadata

    def chunk(self, tensor: str, index: int) -> bytes:
        """See `Version`. Raises `StoreError` when the chunk is missing or damaged."""
        store = self.opened()
        store.require([self.manifest])
        return store.chunk(self.manifest.tensors[tensor].chunks[index])


@dataclass(frozen=True)
class FileVersion:
    """A version that lies in a file, as whole bytes."""

    manifest: Manifest
    path: Path

    @cached_property
    def _header(self) -> Header:
        with self.path.open("rb") as file:
            prefix = file.read(LENGTH_BYTES)
            data = prefix + file.read(json_length(prefix, where=str(self.path)))
        return parse_header(data, file_size=None, where=str(self.path))

    @property
    def metadata(self) -> dict[str, str]:
        """See `Version`."""
        return {} if self.manifest.is_raw else self._header.metadata

    def chunk(self, tensor: str, index: int) -> bytes:
        """See `Version`. Raises `InputError` when the file was cut short since it was described."""
        info = next(info for info in self._header.tensors if info.name == tensor)
        start = info.begin + index * CHUNK_BYTES
        length = min(CHUNK_BYTES, info.end - start)
        with self.path.open("rb") as file:
            file.seek(self._header.length + start)
            data = file.read(length)
        if len(data) != length:
            raise InputError(f"{self.path} changed while it was being read", hint="Run the command again.")
        return data


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One tensor that differs. `old_name` is set where it was renamed; `diff` where it was measured."""

    name: str
    status: Status
    old: TensorEntry | None
    new: TensorEntry | None
    old_name: str | None = None
    diff: TensorDiff | None = None

    @property
    def changed_chunks(self) -> int:
        """How many chunks of the new side are not where they were on the old."""
        if self.status == "renamed":
            return 0
        if self.old is None or self.new is None:
            return len((self.new or self.old or TensorEntry("", (), ())).chunks)
        pairs = zip(self.old.chunks, self.new.chunks, strict=False)
        return max(len(self.old.chunks), len(self.new.chunks)) - sum(old == new for old, new in pairs)


@dataclass(frozen=True, kw_only=True)
class ModelDiff:
    """The difference between two versions. `old` or `new` is None for a model that was added or removed."""

    path: str
    old_path: str
    old: Manifest | None
    new: Manifest | None
    rows: tuple[TensorRow, ...]
    metadata: tuple[str, ...]
    """Keys of `__metadata__` that differ."""

    @property
    def unchanged(self) -> int:
        """How many tensors are equal in both."""
        return len(self.new.tensors) - sum(row.new is not None for row in self.rows) if self.new else 0

    @property
    def raw(self) -> bool:
        """Whether one side is not safetensors, so that there are no tensors to compare."""
        return any(side is not None and side.is_raw for side in (self.old, self.new))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two versions to compare, and where they stand."""

    path: str
    old_path: str
    old: Version | None
    new: Version | None

    @property
    def differs(self) -> bool:
        """Whether there is anything to tell: bytes, or the path."""
        if self.old is None or self.new is None or self.path != self.old_path:
            return True
        return self.old.manifest.digest != self.new.manifest.digest


def compare(pair: Pair, *, measure: bool = True, gates: bool = True) -> ModelDiff:
    """Compares two versions. `measure=False` reads no tensor; `gates` adds the measures of a GRU's gates."""
    old = pair.old.manifest if pair.old else None
    new = pair.new.manifest if pair.new else None
    rows = _rows(old.tensors if old else {}, new.tensors if new else {})
    keys: tuple[str, ...] = ()
    if pair.old and pair.new and old and new and old.header != new.header:
        before, after = pair.old.metadata, pair.new.metadata
        keys = tuple(key for key in sorted({*before, *after}) if before.get(key) != after.get(key))
    if measure and pair.old and pair.new:
        rows = _measured(pair.old, pair.new, rows, gates)
    return ModelDiff(
        path=pair.path, old_path=pair.old_path, old=old, new=new, rows=tuple(rows), metadata=keys
    )


def _rows(old: dict[str, TensorEntry], new: dict[str, TensorEntry]) -> list[TensorRow]:
    """What differs, in the new side's order, then what was removed."""
    gone = {name: entry for name, entry in old.items() if name not in new}
    by_content = {entry: name for name, entry in gone.items() if entry.chunks}
    rows = []
    for name, entry in new.items():
        before = old.get(name)
        if before == entry:
            continue
        old_name = by_content.pop(entry, None) if before is None else None
        if old_name is not None:
            rows.append(
                TensorRow(name=name, status="renamed", old=gone.pop(old_name), new=entry, old_name=old_name)
            )
        elif before is None:
            rows.append(TensorRow(name=name, status="added", old=None, new=entry))
        else:
            same_form = (before.dtype, before.shape) == (entry.dtype, entry.shape)
            rows.append(
                TensorRow(name=name, status="changed" if same_form else "reshaped", old=before, new=entry)
            )
    return rows + [
        TensorRow(name=name, status="removed", old=entry, new=None) for name, entry in gone.items()
    ]


def _measured(old: Version, new: Version, rows: list[TensorRow], gates: bool) -> list[TensorRow]:
    parameters = gru_parameters({n: e.shape for n, e in new.manifest.tensors.items()}) if gates else {}

    def measure(row: TensorRow) -> TensorRow:
        if row.status != "changed" or row.old is None or row.new is None:
            return row
        ranges = gate_ranges(row.new.shape) if row.name in parameters else ()
        comparison = TensorComparison(row.new.dtype, ranges)
        for index, (before, after) in enumerate(zip(row.old.chunks, row.new.chunks, strict=True)):
            data = old.chunk(row.name, index)
            comparison.add(data, data if before == after else new.chunk(row.name, index))
        return TensorRow(name=row.name, status=row.status, old=row.old, new=row.new, diff=comparison.result())

    threads = min(4, os.cpu_count() or 1)
    with Pool(threads) as pool:
        return list(ordered_map(pool, measure, rows, ahead=threads * 4))
