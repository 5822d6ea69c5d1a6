"""Ingest: a file's bytes become chunks and a manifest, in one pass and bounded memory.

Whether a file is kept as tensors or raw depends on its bytes alone, never on its name: a valid safetensors file is cut at its
tensors, anything else is kept raw. A file that has a valid header but whose data is cut short (a trainer is still saving it) or
goes on too long is raw too, yet cut at its tensors, so that the whole file shares its chunks with it. Every other raw file is cut
by its content.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from git_gru.errors import InputError
from git_gru.formats.safetensors import (
    LENGTH_BYTES,
    Header,
    HeaderError,
    json_length,
    parse_header,
    write_header,
)
from git_gru.ids import Buffer, digest
from git_gru.store.chunks import CHUNK_BYTES, Source, cut_lengths, raw_cuts, read_up_to
from git_gru.store.manifest import MAX_MANIFEST, Manifest, TensorEntry
from git_gru.store.store import Store

Add = Callable[[bytearray, str], str]

TOGETHER = 1 << 29
"""Raw bytes that `ingest_all` commits at once. A pack of that size is left alone by later repacks while it is well used."""


class Ingested(NamedTuple):
    """What ingest made: the manifest, why a file that should be safetensors is kept raw (else None), and whether the store did
    not have the model before.
    """

    manifest: Manifest
    warning: str | None
    is_new: bool = False


def ingest(store: Store, source: Source, *, expect_safetensors: bool) -> Ingested:
    """Stores the bytes of `source`, which must not be empty; the model is durable and reachable on return.

    `expect_safetensors` says that the file should be safetensors, so that a reason is given where it is not. Raises `InputError`
    for a file of so many chunks that its manifest would be longer than any that is read.
    """
    with store.writer() as writer:
        result = _cut(source, writer.add, writer.expect, expect_safetensors)
        if (length := len(result.manifest.encode())) > MAX_MANIFEST:
            raise InputError(
                f"the file is too large: a manifest of its {len(result.manifest.chunks()):,} chunks takes {length:,} bytes, "
                f"and {MAX_MANIFEST:,} is the limit",
                hint="Split it: most tools save and load a model in several files.",
            )
        new = writer.commit(result.manifest)
    return result._replace(is_new=bool(new))


def ingest_all(
    store: Store, sources: Iterable[tuple[Source, bool]], *, together: int = TOGETHER
) -> Iterator[Ingested]:
    """As `ingest` for many files, each with its own `expect_safetensors`; each is durable when its result is given out.

    Files are committed in groups of about `together` raw bytes, so that thousands of them do not make thousands of packs.
    """
    rest = iter(sources)
    while group := _ingest_group(store, rest, together):
        yield from group


def _ingest_group(store: Store, sources: Iterator[tuple[Source, bool]], together: int) -> list[Ingested]:
    group: list[Ingested] = []
    size = 0
    with store.writer() as writer:
        for source, expect_safetensors in sources:
            group.append(_cut(source, writer.add, writer.expect, expect_safetensors))
            size += group[-1].manifest.size
            if size >= together:
                break
        if group:
            writer.commit(*(result.manifest for result in group))
    return group


def describe(source: Source, *, expect_safetensors: bool) -> Ingested:
    """The manifest that `ingest` would make, without storing anything."""
    return _cut(source, lambda data, dtype: digest(data), lambda chunks: None, expect_safetensors)


def ingest_tensors(
    store: Store,
    tensors: Sequence[tuple[str, str, Sequence[int], Buffer]],
    metadata: Mapping[str, str] | None = None,
) -> Manifest:
    """Stores tensors (name, dtype, shape, little-endian bytes) as the safetensors file that holds them in this order.

    The buffers must not change until this returns. Raises `HeaderError` for a dtype that safetensors does not have
    and for data of another length than dtype and shape say.
    """
    header = write_header([(name, dtype, shape) for name, dtype, shape, _ in tensors], metadata)
    expected = {
        info.name: info.nbytes for info in parse_header(header, file_size=None, where="new file").tensors
    }
    for name, dtype, shape, data in tensors:
        if memoryview(data).nbytes != expected[name]:
            raise HeaderError(
                f"tensor {name!r}: {dtype} of shape {list(shape)} takes {expected[name]} bytes, "
                f"not {memoryview(data).nbytes}"
            )
    return ingest(
        store, _Buffers([header, *(data for *_, data in tensors)]), expect_safetensors=True
    ).manifest


def _cut(source: Source, add: Add, expect: Callable[[int], None], expect_safetensors: bool) -> Ingested:
    # One byte of the JSON tells most other files apart, whatever length their first bytes happen to announce.
    head = read_up_to(source, LENGTH_BYTES + 1)
    try:
        length = json_length(bytes(head), where="the file")
        if head[LENGTH_BYTES:] != b"{":
            raise HeaderError("the file: the header does not start with '{'")
        head += read_up_to(source, length - 1)
        header = parse_header(bytes(head), file_size=None, where="the file")
    except HeaderError as error:
        manifest = _raw([], raw_cuts(source, head), add)
        return Ingested(manifest, str(error) if expect_safetensors else None)
    expect(1 + sum(-(-info.nbytes // CHUNK_BYTES) for info in header.tensors))
    return _cut_tensors(source, head, header, add, expect_safetensors)


def _cut_tensors(
    source: Source, head: bytearray, header: Header, add: Add, expect_safetensors: bool
) -> Ingested:
    header_id = add(head, "U8")
    done: list[tuple[str, int]] = [(header_id, len(head))]
    tensors: dict[str, TensorEntry] = {}
    for info in header.tensors:
        first = len(done)
        for length in cut_lengths(info.nbytes):
            data = read_up_to(source, length)
            if data:
                done.append((add(data, info.dtype), len(data)))
            if len(data) < length:
                size = sum(length for _, length in done)
                why = (
                    f"the file: truncated: the header describes {header.file_size} bytes, the file has {size}"
                )
                raw = Manifest(size, None, raw=tuple(id for id, _ in done))
                return Ingested(raw, why if expect_safetensors else None)
        tensors[info.name] = TensorEntry(info.dtype, info.shape, tuple(id for id, _ in done[first:]))
    rest = read_up_to(source, CHUNK_BYTES)
    if rest:
        manifest = _raw(done, raw_cuts(source, rest), add)
        why = (
            f"the file: followed by trailing bytes: the header describes {header.file_size} bytes, "
            f"the file has {manifest.size}"
        )
        return Ingested(manifest, why if expect_safetensors else None)
    return Ingested(Manifest(header.file_size, header_id, tensors), None)


def _raw(done: list[tuple[str, int]], pieces: Iterator[bytearray], add: Add) -> Manifest:
    for piece in pieces:
        length = len(piece)
        done.append((add(piece, "U8"), length))
    return Manifest(sum(length for _, length in done), None, raw=tuple(id for id, _ in done))


class _Buffers:
    """Buffers one after the other, as a `Source`."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        views = (memoryview(buffer) for buffer in reversed(buffers))
        self._views = [view.cast("B") for view in views if view.nbytes]

    def readinto(self, buffer: memoryview, /) -> int:
        while self._views and not len(self._views[-1]):
            self._views.pop()
        if not self._views:
            return 0
        view = self._views[-1]
        length = min(len(view), len(buffer))
        buffer[:length] = view[:length]
        self._views[-1] = view[length:]
        return length
