"""Writing packs: Git's own object files, many objects in one, made without `git`.

A store's blobs are kept as *stored deflate*: the chunks are compressed already, so a zlib stream of uncompressed blocks is as
small as any and costs next to nothing. Trees and commits, made of hexadecimal digits, are compressed, and so is what goes into
the user's repository where that helps (`deflated_entry`, `PackWriter.stream`). A pack becomes visible only when its index is
renamed into place, after both were flushed to disk: a killed writer leaves a temporary file and nothing else.

Formats: gitformat-pack(5) (pack v2, idx v2), RFC 1950 and 1951 (stored blocks). `git fsck --strict` and `git verify-pack` are
the oracle in tests.
"""

import contextlib
import errno
import hashlib
import itertools
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Literal, NamedTuple

from git_gru.errors import MachineError
from git_gru.ids import Buffer
from git_gru.store.flushing import FlushAhead

Kind = Literal["commit", "tree", "blob", "tag"]
KINDS: dict[Kind, int] = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}
KIND_NAMES: dict[int, Kind] = {number: kind for kind, number in KINDS.items()}
STORED_BLOCK = 65535
"""Longest stored block of a deflate stream, in bytes (RFC 1951, 3.2.4)."""

_COPY = 1 << 22
_SAMPLED = 1 << 20
_WORTH = 0.9
"""A streamed object is compressed when a sample of it shrinks below this: weights do not (.93), and it takes ten times longer."""


class Entry(NamedTuple):
    """One object, ready to be written: its id (20 bytes), its bytes as they stand in a pack, and their CRC-32."""

    oid: bytes
    packed: bytes
    crc: int


def make_entry(kind: Kind, parts: Sequence[Buffer]) -> Entry:
    """The object whose content is the concatenation of `parts`, as a pack entry; of a blob they are copied just once."""
    if kind != "blob":
        return deflated_entry(kind, b"".join(parts))
    size = sum(map(len, parts))
    sha = object_hash(kind, size)
    adler = 1
    for part in parts:
        sha.update(part)
        adler = zlib.adler32(part, adler)
    head = entry_header(KINDS[kind], size)
    packed = b"".join([head, b"\x78\x01", *_stored_blocks(parts, size), struct.pack(">I", adler)])
    return Entry(sha.digest(), packed, zlib.crc32(packed))


def deflated_entry(kind: Kind, content: bytes) -> Entry:
    """The object with this content, compressed: for texts, trees and commits, which zlib makes small."""
    oid = object_hash(kind, len(content), content).digest()
    packed = entry_header(KINDS[kind], len(content)) + zlib.compress(content)
    return Entry(oid, packed, zlib.crc32(packed))


def object_hash(kind: Kind, size: int, start: Buffer = b"") -> "hashlib._Hash":
    """The hash that names an object of this kind and size, fed with the `start` of its content."""
    sha = hashlib.sha1(b"%s %d\0" % (kind.encode(), size), usedforsecurity=False)
    sha.update(start)
    return sha


def entry_header(kind: int, size: int) -> bytes:
    """The type and length in front of an entry: 3 bits of type, then the size in 4 and 7 bits a byte."""
    first, size = (kind << 4) | (size & 15), size >> 4
    head = bytearray()
    while size:
        head.append(first | 0x80)
        first, size = size & 0x7F, size >> 7
    head.append(first)
    return bytes(head)


def _stored_blocks(parts: Sequence[Buffer], size: int) -> Iterator[Buffer]:
    """The stored blocks of a deflate stream, all of full length but the last."""
    left = size
    room = 0
    if size == 0:
        yield struct.pack("<BHH", 1, 0, 0xFFFF)
    for part in parts:
        view = memoryview(part)
        while view:
            if room == 0:
                room = min(left, STORED_BLOCK)
                left -= room
                yield struct.pack("<BHH", left == 0, room, room ^ 0xFFFF)
            piece, view = view[:room], view[room:]
            room -= len(piece)
            yield piece


class PackWriter:
    """Writes one pack into a repository's `objects/pack`. Not for several threads at once.

    `expected` is how many objects will come, as far as it is known: when it proves right, the pack's checksum is computed
    while writing; otherwise the file is read once more at the end.
    """

    def __init__(self, folder: Path, expected: int) -> None:
        self.folder = folder
        self.written: Path | None = None
        """Where the pack is, once it is finished."""
        self._expected = expected
        self._entries: dict[bytes, tuple[int, int]] = {}
        unique = os.urandom(8).hex()
        self._temporary, self._index = folder / f"tmp_pack_{unique}", folder / f"tmp_idx_{unique}"
        self._offset = 0
        self._sha = hashlib.sha1(usedforsecurity=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._temporary, "xb", buffering=0)  # noqa: SIM115 - closed by finish or abandon
        except OSError as error:
            raise no_room(error, folder) from error
        self._ahead = FlushAhead(self._file.fileno())
        try:
            self._put(_pack_header(expected))
        except BaseException:
            self.abandon()
            raise

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, oid: bytes) -> bool:
        return oid in self._entries

    def add(self, entry: Entry) -> None:
        """Appends an object, unless it is in the pack already."""
        if entry.oid in self._entries:
            return
        start = self._offset
        self._put(entry.packed)
        self._entries[entry.oid] = (
            start,
            entry.crc,
        )  # last: another thread may read what stands here (`offset_of`)

    def stream(
        self, kind: Kind, size: int, pieces: Iterable[Buffer], known: Callable[[bytes], bool]
    ) -> bytes:
        """Appends an object of any size that comes in pieces, `size` bytes in all, and returns its id.

        It is taken back when the pack has it, or when `known` says so of its id.
        """
        entry = self.begin()
        sha, seen = object_hash(kind, size), 0
        rest = iter(pieces)
        first = _gathered(rest, _SAMPLED)
        deflate = zlib.compressobj(_level(first))
        entry.write(entry_header(KINDS[kind], size))
        for piece in itertools.chain([first], rest):
            sha.update(piece)
            seen += len(piece)
            entry.write(deflate.compress(piece))
        if seen != size:
            raise ValueError(f"the object has {seen} bytes, not {size}")
        entry.write(deflate.flush())
        oid = sha.digest()
        if oid in self._entries or known(oid):
            entry.take_back()
        else:
            entry.keep(oid)
        return oid

    def begin(self) -> "OpenEntry":
        """An entry at the pack's end, to be written in pieces as it shall stand there, then kept or taken back."""
        return OpenEntry(self)

    def oids(self) -> Set[bytes]:
        """The ids of the objects in the pack."""
        return self._entries.keys()

    @property
    def unfinished(self) -> Path:
        """The file that the pack is until it is finished."""
        return self._temporary

    def offset_of(self, oid: bytes) -> int | None:
        """Where an object begins in the file, or None; for any thread."""
        entry = self._entries.get(oid)
        return entry[0] if entry is not None else None

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._offset

    def finish(self, *, promised: bool = False) -> Path | None:
        """Makes the pack durable and visible, and returns its path (None if it holds no object).

        `promised` tells Git that a remote promises the objects that those of this pack name: they may be missing here.
        """
        if not self._entries:
            self.abandon()
            return None
        try:
            self.written = self._publish(promised)
            return self.written
        except BaseException as error:
            self.abandon()
            if isinstance(error, OSError):
                raise no_room(error, self.folder) from error
            raise

    def abandon(self) -> None:
        """Throws the unfinished pack away."""
        self._ahead.stop()
        self._file.close()
        self._temporary.unlink(missing_ok=True)
        self._index.unlink(missing_ok=True)

    def _publish(self, promised: bool) -> Path:
        checksum = self.checksum()
        self._put(checksum)
        self._ahead.wait()
        os.fsync(self._file.fileno())
        self._file.close()
        final = self.folder / f"pack-{checksum.hex()}.pack"
        with open(self._index, "xb") as file:
            file.write(_index(self._entries, checksum))
            file.flush()
            os.fsync(file.fileno())
        for path in (self._temporary, self._index):
            path.chmod(0o444)
        if promised:
            final.with_suffix(".promisor").touch()
        self._temporary.rename(final)
        self._index.rename(final.with_suffix(".idx"))
        sync_folder(self.folder)
        return final

    def _put(self, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            try:
                written = self._file.write(view)
            except OSError as error:
                raise no_room(error, self.folder) from error
            view = view[written:]
        self._ahead.wrote(len(data))
        self._offset += len(data)
        self._sha.update(data)

    def checksum(self) -> bytes:
        """What ends the pack if no more entries come: SHA-1 over all of it. A wrong count in its header is mended first."""
        if len(self._entries) == self._expected:
            return self._sha.digest()
        os.pwrite(self._file.fileno(), _pack_header(len(self._entries)), 0)
        sha = hashlib.sha1(usedforsecurity=False)
        with open(self._temporary, "rb") as file:
            while piece := file.read(_COPY):
                sha.update(piece)
        return sha.digest()


class OpenEntry:
    """An entry that comes in pieces. Made by `PackWriter.begin`."""

    def __init__(self, pack: PackWriter) -> None:
        self._pack = pack
        self._start = pack._offset
        self._sha = pack._sha.copy()
        self._crc = 0

    def write(self, data: Buffer) -> None:
        """The next bytes of the entry."""
        self._pack._put(data)
        self._crc = zlib.crc32(data, self._crc)

    def keep(self, oid: bytes) -> None:
        """The entry is whole: it is the object `oid`."""
        self._pack._entries[oid] = (self._start, self._crc)

    def take_back(self) -> None:
        """The pack is again as it was before the entry."""
        pack = self._pack
        os.ftruncate(pack._file.fileno(), self._start)
        pack._file.seek(self._start)
        pack._offset, pack._sha = self._start, self._sha


def _gathered(pieces: Iterator[Buffer], length: int) -> bytearray:
    """The first pieces, up to the one that brings their length to `length` bytes."""
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) >= length:
            break
    return data


def _level(start: bytearray) -> int:
    """How hard to compress an object that begins so. A file's header says nothing of what follows, so the end is looked at."""
    sample = start[-STORED_BLOCK:]
    return 1 if len(zlib.compress(sample, 1)) < _WORTH * len(sample) else 0


def no_room(error: OSError, folder: Path) -> Exception:
    """The error to raise when writing into the store failed: a sentence where the machine is the cause."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError(
            f"the disk is full: {folder} cannot take the model's chunks; nothing was changed",
            hint="free some space and run the command again",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return MachineError(f"the store cannot be written: {folder}: {error.strerror}")
    return error


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some file systems refuse to flush a folder; they order renames themselves.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pack_header(count: int) -> bytes:
    return struct.pack(">4sII", b"PACK", 2, count)


def _index(entries: dict[bytes, tuple[int, int]], checksum: bytes) -> bytes:
    """The index (v2): fan-out, sorted ids, CRCs, offsets, 64-bit offsets where needed, the pack's and its own checksum."""
    oids = sorted(entries)
    counts = [0] * 256
    for oid in oids:
        counts[oid[0]] += 1
    total, fan = 0, []
    for count in counts:
        total += count
        fan.append(total)
    offsets: list[int] = []
    large: list[int] = []
    for oid in oids:
        offset = entries[oid][0]
        if offset < 1 << 31:
            offsets.append(offset)
        else:
            offsets.append(1 << 31 | len(large))
            large.append(offset)
    body = b"".join(
        [
            struct.pack(">4sI256I", b"\xfftOc", 2, *fan),
            *oids,
            struct.pack(f">{len(oids)}I", *(entries[oid][1] for oid in oids)),
            struct.pack(f">{len(oids)}I", *offsets),
            struct.pack(f">{len(large)}Q", *large),
            checksum,
        ]
    )
    return body + hashlib.sha1(body, usedforsecurity=False).digest()
