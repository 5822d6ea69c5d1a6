"""Receiving a pack: a stream of entries becomes a pack of the store, and no object in it is one that was not asked for.

Each object is inflated and hashed as it comes, compared with the ids that were asked for, and kept in the bytes in which it came:
chunks are stored-deflate entries on every hub that got them from git-gru. Whatever is wrong ends the reception; what came before
it is kept. Deltas are not taken: who sends them is asked again by Git itself.

Nothing is believed before it is bounded: the number of objects by what was asked for, an object's size by the caller, what it
inflates to by its size, and what it is made of by what deflate needs at most. Memory: a piece of the stream, and 64 KiB.

Names are SHA-1, without the detection of collisions that costs Git four fifths of its speed. They address: what chunks hold is
protected by their BLAKE3 ids, and what trees name is believed no further than that (docs/format.md, 8).

Format: gitformat-pack(5), RFC 1950.
"""

import struct
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from git_gru.errors import StoreError
from git_gru.ids import Buffer
from git_gru.store.packs import KIND_NAMES, Kind, OpenEntry, PackWriter, object_hash

_HEADER = struct.Struct(">4sII")
_CHECKSUM = 20
_LONGEST_SIZE = 10
"""Bytes that an entry's size may take: more than 64 bits."""

_MOST_OF_A_STATE = 1 << 20
"""Most trees and blobs above the model trees: there are 257 trees, and one blob for each model that is coming or going."""

_AT_ONCE = 1 << 16
"""Bytes that are inflated at once."""


class IncomingError(StoreError):
    """What comes is not what was asked for, or comes in a way that is not understood here."""


def receive(
    pieces: Iterable[Buffer],
    folder: Path,
    wanted: Collection[bytes],
    *,
    kind: Kind,
    longest: int,
    came: Callable[[PackWriter], None] | None = None,
) -> Path | None:
    """Makes a pack in `folder` (an `objects/pack`) of the one that comes in `pieces`; returns its path, None for an empty one.

    It shall hold the objects `wanted`, all of them of `kind` and no longer than `longest` bytes. `came` is told of each that
    has come (`Objects.has_come`). Raises `IncomingError` for anything else, with all that came before durable; and
    `MachineError`.
    """
    absent = set(wanted)

    def take(oid: bytes) -> None:
        if oid not in absent:
            raise IncomingError(f"the object {oid.hex()} came, which was not asked for")
        absent.remove(oid)

    path = _receive(pieces, folder, len(absent), {kind: longest}, take, came)
    if absent:
        raise IncomingError(f"{len(absent)} objects that were asked for did not come")
    return path


def receive_state(pieces: Iterable[Buffer], folder: Path, commit: bytes, *, longest: int) -> None:
    """Makes a pack in `folder` of the one that comes in `pieces`: a commit with trees and blobs, whose names nobody knows yet.

    None may be longer than `longest` bytes. Raises as `receive`, also where the commit is not among them.
    """
    found: set[bytes] = set()
    lengths: dict[Kind, int] = {"commit": longest, "tree": longest, "blob": longest}
    _receive(pieces, folder, _MOST_OF_A_STATE, lengths, found.add, None)
    if commit not in found:
        raise IncomingError(f"the commit {commit.hex()} did not come")


def _receive(
    pieces: Iterable[Buffer],
    folder: Path,
    most: int,
    lengths: Mapping[Kind, int],
    take: Callable[[bytes], None],
    came: Callable[[PackWriter], None] | None,
) -> Path | None:
    """A pack of at most so many objects, of kinds that have a longest length; `take` raises for one that shall not be kept."""
    stream = _Stream(pieces)
    signature, version, count = _HEADER.unpack(stream.take(_HEADER.size))
    if (signature, version) != (b"PACK", 2) or count > most:
        raise IncomingError(f"{most} objects were asked for, what comes is no pack of as many")
    writer = PackWriter(folder, count)
    try:
        for _ in range(count):
            _receive_entry(stream, writer, lengths, take)
            if came is not None:
                came(writer)
        if stream.take(_CHECKSUM) != writer.checksum() or not stream.at_end():
            raise IncomingError("the pack's checksum is wrong")
    except IncomingError:
        writer.finish(promised=True)
        raise
    except BaseException:
        writer.abandon()
        raise
    return writer.finish(promised=True)


def _receive_entry(
    stream: "_Stream", writer: PackWriter, lengths: Mapping[Kind, int], take: Callable[[bytes], None]
) -> None:
    """Adds the next object of the stream."""
    entry = writer.begin()
    try:
        number, size = _entry_header(stream, entry)
        kind = KIND_NAMES.get(number)
        if kind is None or size > lengths.get(kind, -1):
            wanted = " or ".join(lengths)
            raise IncomingError(f"an object of the type {number} and {size} bytes came, not a {wanted}")
        oid = _content(stream, entry, kind, size)
        take(oid)
    except (IncomingError, zlib.error) as error:
        entry.take_back()
        raise IncomingError(str(error)) from error
    entry.keep(oid)


def _entry_header(stream: "_Stream", entry: OpenEntry) -> tuple[int, int]:
    """(type number, size) of the entry that begins."""
    head = stream.take(1)
    number, size, shift = head[0] >> 4 & 7, head[0] & 15, 4
    while head[-1] & 0x80:
        if len(head) == _LONGEST_SIZE:
            raise IncomingError("an object's size has no end")
        head += stream.take(1)
        size |= (head[-1] & 0x7F) << shift
        shift += 7
    entry.write(head)
    return number, size


def _content(stream: "_Stream", entry: OpenEntry, kind: Kind, size: int) -> bytes:
    """Copies the zlib stream of an object of `size` bytes into the entry, and returns the object's id. Raises `zlib.error`."""
    sha, inflate = object_hash(kind, size), zlib.decompressobj()
    left, room = size, size + size // 8 + 1024  # stored blocks, the least that deflate can do, add less
    while not inflate.eof:
        piece = stream.some()
        content = inflate.decompress(piece, min(left + 1, _AT_ONCE))
        rest = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        used = len(piece) - len(rest)
        left, room = left - len(content), room - used
        if left < 0 or room < 0:
            raise IncomingError(f"an object is longer than its {size} bytes")
        sha.update(content)
        entry.write(piece[:used])
        stream.give_back(piece[used:])
    if left:
        raise IncomingError(f"an object ends {left} bytes early")
    return sha.digest()


class _Stream:
    """A stream that comes in pieces, read in others."""

    def __init__(self, pieces: Iterable[Buffer]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def some(self) -> memoryview:
        """The next bytes, at least one."""
        if self.at_end():
            raise IncomingError("the pack ends early")
        found, self._rest = self._rest, memoryview(b"")
        return found

    def give_back(self, rest: memoryview) -> None:
        """The end of what was got last comes again."""
        self._rest = rest

    def take(self, length: int) -> bytes:
        """So many bytes; for a few."""
        taken = b""
        while lacking := length - len(taken):
            piece = self.some()
            taken += piece[:lacking]
            self.give_back(piece[lacking:])
        return taken

    def at_end(self) -> bool:
        """Whether nothing more comes; waits for it."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return True
            self._rest = memoryview(piece)
        return False
