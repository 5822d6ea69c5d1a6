"""Sizes and contents of models for `ls`, `show` and `log`: raw bytes as in the files, stored bytes as in the store.

Chunks that several models or tensors share are counted once wherever bytes are added up over more than one of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from git_gru.errors import InputError
from git_gru.git.changes import Change, changes
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader
from git_gru.store.chunks import cut_lengths
from git_gru.store.manifest import Manifest, TensorEntry
from git_gru.store.store import Store


class NoTensorError(InputError):
    """A model has no tensor of that name."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of a set of chunks: `raw` as in the file, `stored` as in the store, and how many the store does not have."""

    raw: int
    stored: int
    missing: int


@dataclass(frozen=True, kw_only=True)
class KeptChunk:
    """How the store keeps a chunk: `plain`, `delta`, or `missing`; `stored` in bytes."""

    id: str
    encoding: str
    stored: int


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """A change with the sizes of what it brought: the chunks that no model of its parents has."""

    change: Change
    sizes: Sizes


def sizes(store: Store, lengths: dict[str, int]) -> Sizes:
    """The sizes of a set of chunks; `lengths` (id → raw bytes) counts for those that the store does not have."""
    store.sync()
    rows = {id: store.lookup.get(id) for id in lengths}
    return Sizes(
        raw=sum(row.raw if row is not None else lengths[id] for id, row in rows.items()),
        stored=sum(row.stored for row in rows.values() if row is not None),
        missing=sum(row is None for row in rows.values()),
    )


def joined(manifests: Iterable[Manifest]) -> dict[str, int]:
    """Chunk id → raw bytes over several models, shared chunks once."""
    together: dict[str, int] = {}
    for manifest in manifests:
        together.update(manifest.chunk_lengths())
    return together


def tensor_sizes(store: Store, entry: TensorEntry) -> Sizes:
    """The sizes of one tensor's chunks."""
    return sizes(store, dict(zip(entry.chunks, cut_lengths(entry.nbytes), strict=False)))


def kept_chunks(store: Store, entry: TensorEntry) -> list[KeptChunk]:
    """How the store keeps each chunk of a tensor, in order."""
    store.sync()
    kept = []
    for id in entry.chunks:
        row = store.lookup.get(id)
        encoding = "missing" if row is None else "plain" if row.base is None else "delta"
        kept.append(KeptChunk(id=id, encoding=encoding, stored=row.stored if row else 0))
    return kept


def find_tensor(manifest: Manifest, name: str, where: str) -> TensorEntry:
    """The tensor `name` of a model; raises `NoTensorError` (naming close ones) when it has none."""
    if manifest.is_raw:
        raise NoTensorError(f"{where} is kept as raw bytes: it has no tensors that git-gru knows")
    entry = manifest.tensors.get(name)
    if entry is not None:
        return entry
    import difflib

    close = difflib.get_close_matches(name, manifest.tensors, n=3)
    raise NoTensorError(
        f"{where} has no tensor {name}",
        hint=f"Did you mean {', '.join(close)}?" if close else f"List its tensors: git gru show {where}",
    )


def model_log(repo: Repository, revisions: Sequence[str], paths: Sequence[str]) -> Iterator[LogEntry]:
    """The changes reachable from `revisions`, newest first, with the sizes of what each brought."""
    reader = ModelReader(repo, skip_unreadable=True)
    store = repo.store()
    for change in changes(repo, revisions, paths=paths, reader=reader):
        brought = joined(touched.after for touched in change.paths if touched.after is not None)
        for parent in change.parents:
            for manifest in reader.models(parent).values():
                for id in manifest.chunks():
                    brought.pop(id, None)
        yield LogEntry(change=change, sizes=sizes(store, brought))
