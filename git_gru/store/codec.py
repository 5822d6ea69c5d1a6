"""Encodings: how a chunk is kept. Every stored chunk is itself a valid safetensors file.

Its `__metadata__` says `codec` (`plain` or `delta`), `dtype`, `bytes` (the chunk's length) and, for a delta, `base` (the id of
the chunk that it is a difference from: same dtype, same length). Its tensors are the byte planes of `transform`, least
significant first: `plane0`, `plane1`, …, or `plane0.zst` where the plane is one zstd frame. docs/format.md is normative.

Weights are noise to a match finder: with a hash table of 64 entries zstd finds next to nothing, spends its time on entropy
coding, and is both smaller and faster (docs/benchmarks.md). Planes with real repetition (pruned, constant, text) do want
matches: a sample of each plane decides.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import zstandard

from git_gru.errors import StoreError
from git_gru.formats.dtypes import dtype_of
from git_gru.formats.safetensors import HeaderError, json_length, parse_header, write_header
from git_gru.ids import Buffer, is_id
from git_gru.store import transform
from git_gru.store.chunks import LONGEST_CHUNK
from git_gru.store.pack_reader import REPAIR

SAMPLE_BYTES = 1 << 15
SAMPLE_PIECES = 16
WORTH_IT = 0.997
"""A plane whose sample does not fall below this ratio is kept raw."""

MAX_BLOB_HEADER = 1 << 16
"""Longest safetensors header of a stored chunk; a real one has under 600 bytes."""


class ChunkDamagedError(StoreError):
    """A stored chunk that does not decode, or whose bytes are not those that its id names."""


class Encoding(NamedTuple):
    """What a stored chunk says of itself, and where its planes lie in the blob.

    `planes` holds (begin, end, is a zstd frame) for each plane.
    """

    codec: Literal["plain", "delta"]
    dtype: str
    nbytes: int
    base: str | None
    planes: tuple[tuple[int, int, bool], ...]


def encode_plain(data: Buffer, dtype: str) -> list[Buffer]:
    """The plain encoding of a chunk, as the parts of a blob that the caller joins."""
    return encode_planes(plain_planes(data, dtype), dtype)


def plain_planes(data: Buffer, dtype: str) -> list[Buffer]:
    """The planes of a chunk's plain encoding, least significant first."""
    kind = dtype_of(dtype)
    width = _width(data, dtype)
    if width == 1 and not kind.rotated:
        return [data]
    return list(transform.split_plain(data, width, kind.rotated))


def encode_planes(planes: Sequence[Buffer], dtype: str) -> list[Buffer]:
    """The plain encoding of the chunk with these planes, as the parts of a blob."""
    nbytes = sum(map(len, planes))
    return _blob(planes, {"codec": "plain", "dtype": dtype, "bytes": str(nbytes)})


def may_be_nonfinite(planes: Sequence[Buffer], dtype: str) -> bool:
    """Whether a chunk with these planes may hold a NaN or an infinity: exact for all floats but F64, of which the largest
    numbers count too. A search for a byte, which costs next to nothing.
    """
    return len(planes) == dtype_of(dtype).coded_width and is_nonfinite_top(planes[-1], dtype)


def is_nonfinite_top(plane: Buffer, dtype: str) -> bool:
    """Whether a top plane has a byte that a NaN or an infinity may have."""
    top = bytes(plane) if isinstance(plane, memoryview) else plane  # which would compare byte by byte
    return any(byte in top for byte in dtype_of(dtype).nonfinite_tops)


def encode_delta(data: Buffer, base: Buffer, base_id: str, dtype: str) -> list[Buffer]:
    """The delta encoding of a chunk against `base` (same length and dtype), as the parts of a blob."""
    width = _width(data, dtype)
    planes = transform.split_delta(data, base, width, dtype_of(dtype).rotated)
    return _blob(planes, {"base": base_id, "codec": "delta", "dtype": dtype, "bytes": str(len(data))})


def inspect(blob: Buffer, *, where: str) -> Encoding:
    """What the leading bytes of a stored chunk say; nothing is decoded. Raises `ChunkDamagedError`."""
    head = bytes(memoryview(blob)[:MAX_BLOB_HEADER])
    try:
        if json_length(head, where=where) > MAX_BLOB_HEADER - 8:
            raise ChunkDamagedError(f"{where}: the stored chunk's header is too long")
        header = parse_header(head, file_size=None, where=where)
    except HeaderError as error:
        raise ChunkDamagedError(str(error), hint=REPAIR) from None
    meta = header.metadata
    codec, base, count = meta.get("codec"), meta.get("base"), meta.get("bytes", "")
    if not (count.isascii() and count.isdigit() and len(count) < 12 and int(count) <= LONGEST_CHUNK):
        raise ChunkDamagedError(f"{where}: the stored chunk's length {count!r} is not one", hint=REPAIR)
    nbytes, dtype = int(count), meta.get("dtype", "")
    fits = (codec == "plain" and base is None) or (codec == "delta" and is_id(base))
    width = dtype_of(dtype).coded_width if nbytes % dtype_of(dtype).coded_width == 0 else 1
    planes = {info.name: info for info in header.tensors}
    spans = []
    for b in range(width):
        info = planes.pop(f"plane{b}.zst", None) or planes.pop(f"plane{b}", None)
        if info is None or info.dtype != "U8":
            raise ChunkDamagedError(f"{where}: plane {b} of the stored chunk is missing", hint=REPAIR)
        spans.append((header.length + info.begin, header.length + info.end, info.name.endswith(".zst")))
    if not fits or planes:
        raise ChunkDamagedError(f"{where}: the stored chunk names no known codec", hint=REPAIR)
    return Encoding("plain" if codec == "plain" else "delta", dtype, nbytes, base, tuple(spans))


def top_plane(blob: Buffer, encoding: Encoding, *, where: str) -> Buffer | None:
    """The most significant byte of every unit, as the codec rotated it; None for a delta, which keeps differences.

    Of F32 and BF16 it is the exponent. A fraction of the work of `decode`; nothing is compared with the chunk's id.
    """
    if encoding.codec != "plain":
        return None
    begin, end, compressed = encoding.planes[-1]
    return _plane(memoryview(blob)[begin:end], encoding.nbytes // len(encoding.planes), compressed, where)


def decode(blob: Buffer, encoding: Encoding, base: Buffer | None, *, where: str) -> Buffer:
    """The chunk's bytes. `base` is the decoded base of a delta. The caller compares the result with its id.

    Time and memory are bounded by `encoding.nbytes`, whatever the blob holds. Raises `ChunkDamagedError`.
    """
    view = memoryview(blob)
    length = encoding.nbytes // len(encoding.planes)
    planes = [
        _plane(view[begin:end], length, compressed, where) for begin, end, compressed in encoding.planes
    ]
    rotated = dtype_of(encoding.dtype).rotated
    if encoding.codec == "plain":
        if len(planes) == 1 and not rotated:
            return planes[0]
        return transform.join_plain(planes, rotated)
    if base is None or len(base) != encoding.nbytes:
        raise ChunkDamagedError(f"{where}: the base of the stored chunk has another length", hint=REPAIR)
    return transform.join_delta(planes, base, rotated)


def _width(data: Buffer, dtype: str) -> int:
    width = dtype_of(dtype).coded_width
    return width if len(data) % width == 0 else 1


def _blob(planes: Sequence[Buffer], metadata: dict[str, str]) -> list[Buffer]:
    names, parts = [], []
    for b, plane in enumerate(planes):
        packed = _compress(plane)
        names.append(f"plane{b}" if packed is None else f"plane{b}.zst")
        parts.append(plane if packed is None else packed)
    header = write_header(
        ((name, "U8", [len(part)]) for name, part in zip(names, parts, strict=True)), metadata
    )
    return [header, *parts]


def _plane(part: memoryview, length: int, compressed: bool, where: str) -> Buffer:
    if not compressed:
        if len(part) != length:
            raise ChunkDamagedError(f"{where}: a plane of the stored chunk has the wrong length", hint=REPAIR)
        return part
    try:
        if zstandard.frame_content_size(part) != length:
            raise ChunkDamagedError(f"{where}: a plane of the stored chunk has the wrong length", hint=REPAIR)
        plane: bytes = _tools().decompressor.decompress(part, max_output_size=max(length, 1))
    except zstandard.ZstdError as error:
        raise ChunkDamagedError(f"{where}: a plane does not decompress: {error}", hint=REPAIR) from None
    if len(plane) != length:
        raise ChunkDamagedError(f"{where}: a plane of the stored chunk has the wrong length", hint=REPAIR)
    return plane


class _Tools(threading.local):
    """zstd's contexts, one set a thread (they are costly to make and not to be shared)."""

    def __init__(self) -> None:
        entropy = zstandard.ZstdCompressionParameters.from_level(1, hash_log=6)
        self.compressors: list[Callable[[Buffer], bytes]] = [
            zstandard.ZstdCompressor(compression_params=entropy).compress,
            zstandard.ZstdCompressor(level=1).compress,
        ]
        self.decompressor = zstandard.ZstdDecompressor()


_local = _Tools()


def _tools() -> _Tools:
    return _local


def _compress(plane: Buffer) -> bytes | None:
    """The plane as a zstd frame, by the parameters that suit a sample of it; None where it is better kept raw."""
    compressors = _tools().compressors
    if len(plane) <= 2 * SAMPLE_BYTES:
        best = min((compress(plane) for compress in compressors), key=len)
    else:
        sample = _sample(plane)
        sizes = [len(compress(sample)) for compress in compressors]
        if min(sizes) > WORTH_IT * len(sample):
            return None
        best = compressors[sizes.index(min(sizes))](plane)
    return best if len(best) < WORTH_IT * len(plane) else None


def _sample(plane: Buffer) -> bytes:
    view = memoryview(plane)
    piece = SAMPLE_BYTES // SAMPLE_PIECES
    step = (len(plane) - piece) // (SAMPLE_PIECES - 1)
    return b"".join(view[i * step : i * step + piece] for i in range(SAMPLE_PIECES))
