"""Reading a pack: finding an object by its index, and its bytes in the pack.

Most objects are entries that `packs.PackWriter` wrote: a stored-deflate stream, which one system call reads into place, its
block heads set aside. (Not mapped: mapped pages count as the process's memory, and touching them costs more than reading.)
Packs that Git made are read as well: deflated entries, and deltas.
"""

import bisect
import mmap
import os
import struct
import zlib
from pathlib import Path

from git_gru.errors import StoreError
from git_gru.ids import Buffer
from git_gru.store.deltas import apply_delta, base_offset
from git_gru.store.open_files import OpenFiles
from git_gru.store.packs import KINDS, STORED_BLOCK, Entry

LONGEST_OBJECT = 1 << 28
"""Longest object that is read, in bytes: more than any chunk's blob, and a model tree of 10 TB."""

_OID = 20
_BY_OFFSET, _BY_NAME = 6, 7  # types of a Git delta, by where it names its base
_MOST_DELTAS = 4095  # as many as Git makes
_BLOCK_HEAD = 5
_BLOCKS_A_CALL = 256  # two buffers each; Linux takes 1,024 a call
_LONGEST_ENTRY_HEADER = 12
_MOST_INFLATED = 1100  # deflate cannot do better than 1:1032
_MAPPED_INDEX = 1 << 22  # a larger index is mapped, not read: few packs have one

UNREADABLE = (zlib.error, IndexError, struct.error, OSError)
"""What reading a damaged pack may raise, beside errors of the store."""

_NUMBER = struct.Struct(">I")


REPAIR = (
    "git gru repair puts the store together from what is intact, with the help of a remote if there is one; where you still "
    "have an intact copy of the file, add it again (touch PATH; git add PATH): its chunks are then written anew"
)


class ObjectDamagedError(StoreError):
    """An object of the store that cannot be read; `pack` is the path of the pack that has it, if one does."""

    def __init__(self, message: str, *, hint: str | None = None, pack: Path | None = None) -> None:
        super().__init__(message, hint=hint)
        self.pack = pack


class Pack:
    """One pack and its index. The pack's file is opened when it is read, and by `files` closed when others are."""

    def __init__(self, path: Path, files: "OpenFiles") -> None:
        self.path = path
        self._files = files
        self.index = _load(path.with_suffix(".idx"))
        status = path.stat()
        self.size, self.written = status.st_size, status.st_mtime_ns
        if self.index[:8] != b"\xfftOc\0\0\0\2":
            raise ObjectDamagedError(
                f"{path.with_suffix('.idx')}: not a pack index of version 2", hint=REPAIR, pack=path
            )
        self._ids = 8 + 1024
        cut = len(self.index) < self._ids + 40 or self.size < 32
        self.count: int = 0 if cut else struct.unpack_from(">I", self.index, 8 + 255 * 4)[0]
        if cut or len(self.index) < self._ids + self.count * 28 + 40:
            raise ObjectDamagedError(f"{path}: the pack or its index is truncated", hint=REPAIR, pack=path)

    def oids(self) -> list[bytes]:
        """The ids of all objects, ascending."""
        table = self.index[self._ids : self._ids + self.count * _OID]
        return [table[i : i + _OID] for i in range(0, len(table), _OID)]

    def find(self, oid: bytes) -> int | None:
        """The offset of an object's entry, or None."""
        at = self._position(oid)
        return None if at is None else self._offset(at)

    def _position(self, oid: bytes) -> int | None:
        """Where an object stands among all ids, or None."""
        low, high = 0, _NUMBER.unpack_from(self.index, 8 + oid[0] * 4)[0]
        if oid[0]:
            low = _NUMBER.unpack_from(self.index, 4 + oid[0] * 4)[0]
        if (
            low == high
        ):  # most packs have few objects: a store of a thousand is searched a thousand times as often
            return None
        at = bisect.bisect_left(range(high), oid, low, high, key=self._oid)
        return None if at == high or self._oid(at) != oid else at

    def entries(self) -> list[tuple[bytes, int, int]]:
        """(id, offset, bytes in the pack) of all objects, by offset."""
        found = sorted((self._offset(at), oid) for at, oid in enumerate(self.oids()))
        if not found:  # git keeps such a pack when a fetch brings nothing new
            return []
        ends = [*(offset for offset, _ in found[1:]), self.size - _OID]
        return [(oid, offset, end - offset) for (offset, oid), end in zip(found, ends, strict=True)]

    def holds_blob(self, offset: int) -> bool:
        """Whether the entry at `offset` may be a blob: it is no tree and no commit."""
        return self._entry(offset)[0] not in (KINDS["tree"], KINDS["commit"])

    def read(self, offset: int) -> tuple[int, Buffer]:
        """(type number, content) of the entry at `offset`."""
        kind, size, start = self._entry(offset)
        deltas: list[tuple[int, int]] = []
        while kind in (_BY_OFFSET, _BY_NAME):
            offset, start = self._base(kind, offset, start)
            deltas.append((start, size))
            if len(deltas) > _MOST_DELTAS:
                raise zlib.error("the entry's chain of deltas does not end")
            kind, size, start = self._entry(offset)
        if kind not in KINDS.values():
            raise zlib.error(f"the entry is of the type {kind}")
        content = self._unwrap(start, size)
        if content is None:
            content = self._inflate(start, size)
        for start, size in reversed(deltas):
            content = apply_delta(content, self._inflate(start, size), LONGEST_OBJECT)
        return kind, content

    def head(self, offset: int, length: int) -> tuple[int, Buffer] | None:
        """(size, first bytes) of a stored-deflate entry's content; None for any other."""
        kind, size, start = self._entry(offset)
        data = self._pread(start + 2, _BLOCK_HEAD + min(length, size, STORED_BLOCK))
        if kind not in KINDS.values() or data[0] > 1:
            return None
        if len(data) < _BLOCK_HEAD + min(length, size, STORED_BLOCK):
            raise zlib.error("the pack ends early")
        return size, data[_BLOCK_HEAD:]

    def packed(self, offset: int) -> bytes | None:
        """The entry at `offset` as it stands in the pack, if it is a stored-deflate entry; else None."""
        kind, size, start = self._entry(offset)
        if kind not in KINDS.values() or size > self.size:
            return None
        blocks = max(size - 1, 0) // STORED_BLOCK + 1
        skip = start - offset + 2
        entry = self._pread(offset, skip + blocks * _BLOCK_HEAD + size + 4)
        for block in range(blocks):
            at = skip + block * (_BLOCK_HEAD + STORED_BLOCK)
            length = min(STORED_BLOCK, size - block * STORED_BLOCK)
            if entry[at : at + _BLOCK_HEAD] != _block_head(block == blocks - 1, length):
                return None
        return entry

    def entry(self, oid: bytes) -> Entry | None:
        """The object as an entry for another pack, if it is a stored-deflate entry here; else None.

        Raises `zlib.error` where its CRC-32 is not the one in the index.
        """
        at = self._position(oid)
        packed = None if at is None else self.packed(self._offset(at))
        if at is None or packed is None:
            return None
        (crc,) = _NUMBER.unpack_from(self.index, self._ids + self.count * _OID + at * 4)
        if zlib.crc32(packed) != crc:
            raise zlib.error("the entry's CRC-32 is not the one in the index")
        return Entry(oid, packed, crc)

    def _offset(self, at: int) -> int:
        (offset,) = _NUMBER.unpack_from(self.index, self._ids + self.count * 24 + at * 4)
        if offset & 1 << 31:
            large = self._ids + self.count * 28 + (offset & 0x7FFFFFFF) * 8
            (offset,) = struct.unpack_from(">Q", self.index, large)
        return int(offset)

    def _base(self, kind: int, offset: int, start: int) -> tuple[int, int]:
        """(where the base's entry begins, where the zlib stream does) of a Git delta whose header ends at `start`."""
        head = self._pread(start, _OID)
        if kind == _BY_OFFSET:
            base, length = base_offset(head, offset)
            return base, start + length
        found = self.find(head)
        if found is None:
            raise zlib.error(f"the entry's base {head.hex()} is not in its pack")
        return found, start + _OID

    def _oid(self, at: int) -> bytes:
        return self.index[self._ids + at * _OID : self._ids + (at + 1) * _OID]

    def _pread(self, offset: int, length: int) -> bytes:
        file = self._files.get(self.path)
        return os.pread(file.descriptor, length, offset)

    def _entry(self, offset: int) -> tuple[int, int, int]:
        """(type number, size of the content, where the zlib stream starts) of the entry at `offset`."""
        head = self._pread(offset, _LONGEST_ENTRY_HEADER)
        kind, size, shift = (head[0] >> 4) & 7, head[0] & 15, 4
        at = 0
        while head[at] & 0x80:
            at += 1
            size |= (head[at] & 0x7F) << shift
            shift += 7
        if size > min(LONGEST_OBJECT, _MOST_INFLATED * self.size):
            raise zlib.error(f"the entry claims {size} bytes")
        return kind, size, offset + at + 1

    def _unwrap(self, start: int, size: int) -> Buffer | None:
        """The content of a zlib stream whose blocks are stored ones of full length, else None.

        Read by scattering: the blocks' heads go aside, their bytes straight into place.
        """
        if size > self.size or self._pread(start + 2, 1)[0] > 1:
            return None
        content = bytearray(size)
        view = memoryview(content)
        blocks = max(size - 1, 0) // STORED_BLOCK + 1
        file, at = self._files.get(self.path), start + 2
        for first in range(0, blocks, _BLOCKS_A_CALL):
            last = min(first + _BLOCKS_A_CALL, blocks)
            parts = [view[b * STORED_BLOCK : (b + 1) * STORED_BLOCK] for b in range(first, last)]
            heads = [bytearray(_BLOCK_HEAD) for _ in parts]
            wanted = sum(map(len, parts)) + _BLOCK_HEAD * len(parts)
            scattered = [buffer for pair in zip(heads, parts, strict=True) for buffer in pair]
            if os.preadv(file.descriptor, scattered, at) != wanted:
                return None
            at += wanted
            for block, head, part in zip(range(first, last), heads, parts, strict=True):
                if head != _block_head(block == blocks - 1, len(part)):
                    return None
        return content

    def _inflate(self, start: int, size: int) -> Buffer:
        """The content of any other zlib stream."""
        inflate, content = zlib.decompressobj(), bytearray()
        while len(content) < size and (piece := self._pread(start, STORED_BLOCK)):
            content += inflate.decompress(piece, size - len(content))
            while inflate.unconsumed_tail and len(content) < size:
                content += inflate.decompress(inflate.unconsumed_tail, size - len(content))
            start += len(piece)
        if len(content) != size:
            raise zlib.error("the stream ends early")
        return content


def _block_head(last: bool, length: int) -> bytes:
    return struct.pack("<BHH", last, length, length ^ 0xFFFF)


def _load(path: Path) -> bytes | mmap.mmap:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > _MAPPED_INDEX:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return file.read()
