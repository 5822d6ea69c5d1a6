"""Reading objects of the store: straight from packs (`pack_reader`), through libgit2 what stands in none.

A loose object, or one of an alternate, goes through pygit2, which is asked for no other: a damaged pack can crash it.
Object names are not re-computed here: every chunk is compared with its own id when it is decoded, and everything else is parsed
strictly.
"""

import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from git_gru.errors import StoreError
from git_gru.ids import Buffer
from git_gru.store.growing import GrowingPack
from git_gru.store.open_files import OpenFiles
from git_gru.store.pack_reader import REPAIR, ObjectDamagedError, Pack
from git_gru.store.packs import KIND_NAMES, Entry, Kind, PackWriter

_TICK = 2_000_000_000  # nanoseconds: the coarsest times that a file system keeps

T = TypeVar("T")


class ObjectMissingError(StoreError):
    """An object that the store should have is not there."""


class Objects:
    """All objects of the store at `folder` (a bare repository). Safe for several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._packs: dict[str, Pack] = {}
        self._lock = threading.Lock()
        self._files = OpenFiles()
        self._libgit2: Any = None
        self._growing: GrowingPack | None = None
        self.arriving = threading.Condition()
        """Notified of each object that comes into a pack under way (`has_come`)."""

    def read(self, oid: bytes) -> tuple[str, Buffer]:
        """(kind, content) of an object. Raises `ObjectMissingError` or `ObjectDamagedError`."""
        entry = self._use(oid, Pack.read)
        if entry is not None:
            return KIND_NAMES[entry[0]], entry[1]
        return self._read_by_libgit2(oid)

    def has(self, oid: bytes) -> bool:
        """Whether the object is in the store; it is not looked at."""
        return not self.absent([oid])

    def absent(self, oids: Iterable[bytes]) -> list[bytes]:
        """Those of the objects that are not in the store, each once. For many at a time: the folder is looked at once."""
        wanted = list(dict.fromkeys(oids))
        for _ in range(2):
            packs = list(self._packs.values())
            wanted = [oid for oid in wanted if all(pack.find(oid) is None for pack in packs)]
            if not wanted or not self._scan():
                break
        if (self.folder / "objects/info/alternates").exists():
            return [oid for oid in wanted if not self._is_elsewhere(oid)]
        loose = self.folder / "objects"
        return [oid for oid in wanted if not (loose / oid.hex()[:2] / oid.hex()[2:]).exists()]

    def has_come(self, writer: PackWriter) -> None:
        """To be called when a pack under way has got an object: it can be read from now on. To `absent` it is not here yet."""
        with self.arriving:
            if self._growing is None or self._growing.writer is not writer:
                self._scan()  # the last such pack is one of the folder's by now
                self._growing = GrowingPack(writer, self._files)
            self.arriving.notify_all()

    def is_readable(self, oid: bytes) -> bool:
        """Whether a pack that was seen has the object, or the pack under way. The folder is not looked at."""
        return self._known(oid) is not None

    def _is_elsewhere(self, oid: bytes) -> bool:
        """Whether libgit2 finds the object, loose or in another repository whose objects this one borrows."""
        try:
            self._read_by_libgit2(oid)
        except ObjectMissingError:
            return False
        return True

    def expect(self, oid: bytes, kind: Kind) -> Buffer:
        """The content of an object of that kind."""
        found, content = self.read(oid)
        if found != kind:
            raise ObjectDamagedError(
                f"object {oid.hex()} of the store is a {found}, not a {kind}", hint=REPAIR
            )
        return content

    def head(self, oid: bytes, length: int) -> tuple[int, Buffer]:
        """(size, first `length` bytes or more) of an object, without reading all of it where that can be had."""
        head = self._use(oid, lambda pack, offset: pack.head(offset, length))
        if head is not None:
            return head
        content = self.read(oid)[1]
        return len(content), content

    def entry(self, oid: bytes) -> Entry | None:
        """The object as an entry for another pack, copied as it stands, where that can be done; else None."""
        return self._use(oid, lambda pack, _: pack.entry(oid))

    def pack_of(self, oid: bytes) -> Path | None:
        """The path of the pack that has the object, or None."""
        found = self._find(oid)
        return found[0].path if found else None

    def packs(self) -> list[Pack]:
        """The packs that are there now."""
        self._scan()
        return list(self._packs.values())

    def prefer(self, path: Path) -> None:
        """Has the objects of a pack found there before any other copy of them, whatever the clock said when they were written."""
        newest = max((pack.written for pack in self.packs()), default=0)
        os.utime(path, ns=(newest + _TICK, newest + _TICK))
        with self._lock:
            self._packs.pop(path.with_suffix(".idx").name, None)
        self._scan()

    def _use(self, oid: bytes, work: Callable[[Pack, int], T | None]) -> T | None:
        """`work(pack, offset)` where a pack has the object, else None. Raises `ObjectDamagedError`."""
        found = None
        for _ in range(2):
            try:
                found = self._find(oid)
                return work(*found) if found else None
            except FileNotFoundError:
                self._scan()  # a repack deleted the pack; what is still needed stands in another by now
            except (zlib.error, IndexError, ValueError, struct.error) as error:
                pack = found[0].path if found else None
                where = pack or self.folder
                raise ObjectDamagedError(
                    f"object {oid.hex()} in {where} is damaged: {error}", hint=REPAIR, pack=pack
                ) from None
        return None

    def _find(self, oid: bytes) -> tuple[Pack, int] | None:
        for _ in range(2):
            if (found := self._known(oid)) is not None:
                return found
            if not self._scan():
                break
        return None

    def _known(self, oid: bytes) -> tuple[Pack, int] | None:
        growing = self._growing
        for pack in (*self._packs.values(), *([growing] if growing is not None else [])):
            if (offset := pack.find(oid)) is not None:
                return pack, offset
        return None

    def _scan(self) -> bool:
        """Looks at the folder again; whether it holds a pack that was not known."""
        with self._lock:
            names = {path.name for path in (self.folder / "objects/pack").glob("pack-*.idx")}
            new = names - self._packs.keys()
            for gone in self._packs.keys() - names:
                del self._packs[gone]
            for name in new:
                try:
                    self._packs[name] = Pack(
                        (self.folder / "objects/pack" / name).with_suffix(".pack"), self._files
                    )
                except FileNotFoundError:
                    continue  # deleted by a repack between the two looks
            # Newest first: an object that was written again, because its old copy is damaged, stands before that copy (`prefer`).
            order = sorted(self._packs.items(), key=lambda item: item[1].written, reverse=True)
            self._packs = dict(order)
            return bool(new)

    def _read_by_libgit2(self, oid: bytes) -> tuple[str, Buffer]:
        loose = self.folder / "objects" / oid.hex()[:2] / oid.hex()[2:]
        if not loose.exists() and not (self.folder / "objects/info/alternates").exists():
            raise ObjectMissingError(f"object {oid.hex()} is not in the store {self.folder}")
        import pygit2  # late: it takes longer to import than a small model takes to add

        with self._lock:
            if self._libgit2 is None:
                self._libgit2 = pygit2.Repository(str(self.folder))
            try:
                kind, content = self._libgit2.read(pygit2.Oid(raw=oid))
                return KIND_NAMES.get(int(kind), "tag"), content
            except KeyError:
                raise ObjectMissingError(
                    f"object {oid.hex()} is not in the store {self.folder}", hint=REPAIR
                ) from None
            except pygit2.GitError as error:
                raise ObjectDamagedError(
                    f"object {oid.hex()} of the store cannot be read: {error}", hint=REPAIR
                ) from None
