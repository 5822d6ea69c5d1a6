"""Cutting: where chunks begin and end.

A safetensors file is cut at its tensors: the leading bytes (length, JSON, padding) are one chunk, and each tensor is cut every
`CHUNK_BYTES` from its own start, so that a tensor's chunks do not move when something before it changes. Any other file is cut
by `raw_cuts`: every `CHUNK_BYTES` from the file's start.
"""

from collections.abc import Iterator
from typing import Protocol

from git_gru.formats.safetensors import LENGTH_BYTES, MAX_HEADER

CHUNK_BYTES = 1 << 22
"""Length of a chunk in bytes, but for the last of a tensor or file (which may be shorter) and for the header chunk."""

LONGEST_CHUNK = MAX_HEADER + LENGTH_BYTES
"""Longest chunk that is ever decoded: the header chunk is never cut."""


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
    """The rest of `source`, behind the bytes `start` that were read before, cut every `CHUNK_BYTES`."""
    data = start if start is not None else bytearray()
    while len(data) >= CHUNK_BYTES:
        yield data[:CHUNK_BYTES]
        del data[:CHUNK_BYTES]
    while True:
        data += read_up_to(source, CHUNK_BYTES - len(data))
        if data:
            yield data
        if len(data) < CHUNK_BYTES:
            return
        data = bytearray()
