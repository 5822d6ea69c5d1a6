"""Cutting: where chunks begin and end.

A safetensors file is cut at its tensors: the leading bytes (length, JSON, padding) are one chunk, and each tensor is cut every
`CHUNK_BYTES` from its own start, so that a tensor's chunks do not move when something before it changes. Any other file is cut
where its content says so (`raw_cuts`): what stands behind an insertion is cut as before, although its offsets have moved.

Cuts are a function of the bytes alone, never of how a source delivers them, and stay the same for ever: docs/format.md is
normative, golden tests hold them.
"""

from collections.abc import Iterator
from typing import Literal, Protocol

from git_gru.formats.safetensors import LENGTH_BYTES, MAX_HEADER

CHUNK_BYTES = 1 << 22
"""Length of a chunk in bytes, but for the last of a tensor or file (which may be shorter) and for the header chunk."""

LONGEST_CHUNK = MAX_HEADER + LENGTH_BYTES
"""Longest chunk that is ever decoded: the header chunk is never cut."""


RAW_SHORTEST, RAW_AVERAGE, RAW_LONGEST = 1 << 16, 1 << 18, CHUNK_BYTES
"""Bytes of the shortest chunk of `raw_cuts` (but for a file's last), of the usual one, and of the longest.

The usual length decides what a change costs: a chunk or two at either end, and in a zip archive such as a `.pt` file one for each
member behind an insertion, as all get new names. 256 KiB is where chunks get no cheaper to add (docs/benchmarks.md).
"""

RAW_NORMALIZATION: Literal[2] = 2
"""FastCDC's normalization level: a cut takes so many bits more before the usual length, and so many fewer behind it."""


class Source(Protocol):
    """Where bytes come from: an open binary file, a pipe, a buffer in memory."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fills `buffer` from its start and returns how many bytes came; 0 at the end."""
        ...


def cut_lengths(nbytes: int) -> Iterator[int]:
    """The lengths of the chunks that `nbytes` bytes are cut into. An empty tensor has no chunk."""
    whole, rest = divmod(nbytes, CHUNK_BYTES)
    for _ in range(whole):
        yield CHUNK_BYTES
    if rest:
        yield rest


def read_up_to(source: Source, length: int) -> bytearray:
    """The next `length` bytes of `source`, or fewer where it ends."""
    data = bytearray(length)
    view = memoryview(data)
    filled = 0
    while filled < length:
        got = source.readinto(view[filled:])
        if not got:
            break
        filled += got
    view.release()
    del data[filled:]
    return data


def raw_cuts(source: Source, start: bytearray | None = None) -> Iterator[bytearray]:
    """The rest of `source`, behind the bytes `start` that were read before, cut by content: FastCDC.

    Memory: two chunks of `RAW_LONGEST` beside `start`. Source: Xia et al., The Design of Fast Content-Defined Chunking for Data
    Deduplication Based Storage Systems (2020), as the library pyfastcdc has it; docs/format.md, section 3.1.
    """
    from pyfastcdc import FastCDC  # late: a filter's start-up is felt, and safetensors files do without it

    cutter = FastCDC(
        RAW_AVERAGE,
        min_size=RAW_SHORTEST,
        max_size=RAW_LONGEST,
        normalized_chunking=RAW_NORMALIZATION,
    )
    for chunk in cutter.cut_stream(_Resumed(start or bytearray(), source)):
        yield bytearray(chunk.data)  # the library's own buffer, which the next chunk overwrites


class _Resumed:
    """Bytes that were read before, then the rest of their source."""

    def __init__(self, start: bytearray, rest: Source) -> None:
        self._start = memoryview(start)
        self._rest = rest

    def readinto(self, buffer: memoryview, /) -> int:
        count = min(len(buffer), len(self._start))
        if not count:
            return self._rest.readinto(buffer) or 0
        buffer[:count] = self._start[:count]
        self._start = self._start[count:]
        return count
