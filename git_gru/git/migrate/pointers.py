"""Pointers of git-lfs: the texts that it keeps in a file's place, and the objects that they stand for.

A pointer is lines `key value`: `version` first, then `oid sha256:<64 hex>` and `size <bytes>`. Its object is the file
`lfs/objects/<2 hex>/<2 hex>/<64 hex>` in the common Git folder, or below the folder that the setting `lfs.storage` names.
Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from git_gru.errors import InputError, StoreError
from git_gru.git.repository import Repository
from git_gru.store.chunks import Source

POINTER_LIMIT = 1024
"""A file of so many bytes or more is no pointer."""

_VERSIONS = (
    b"https://git-lfs.github.com/spec/v1",
    b"https://hawser.github.com/spec/v1",
    b"http://git-media.io/v/2",
)
_BEGIN = tuple(b"version " + version for version in _VERSIONS)
_OID = re.compile(rb"sha256:([0-9a-f]{64})\Z")
_SIZE = re.compile(rb"[0-9]{1,18}\Z")


class PointerError(InputError):
    """A text that begins as a pointer does and is none."""


class ContentChangedError(StoreError):
    """Bytes that are not those that their name or pointer says."""


class Pointer(NamedTuple):
    """What a pointer says: the SHA-256 of the file (64 hex digits) and its length in bytes."""

    oid: str
    size: int


def parse_pointer(data: bytes, *, where: str) -> Pointer | None:
    """The pointer in `data`; None where it is another file. Raises `PointerError` for a broken one, and for one with
    extensions: only the programs that made its object can turn that back into the file.
    """
    if len(data) >= POINTER_LIMIT or not data.startswith(_BEGIN):
        return None
    fields = dict(_fields(data))
    oid, size = _OID.match(fields.get(b"oid", b"")), _SIZE.match(fields.get(b"size", b""))
    if any(key.startswith(b"ext-") for key in fields):
        raise PointerError(
            f"{where} is a git-lfs pointer with an extension, which git-gru cannot undo",
            hint="Name patterns that leave this file out.",
        )
    if fields.get(b"version") not in _VERSIONS or oid is None or size is None:
        raise PointerError(
            f"{where} begins like a git-lfs pointer and is none",
            hint="Look at it with: git lfs fsck --pointers; or name patterns that leave this file out.",
        )
    return Pointer(oid[1].decode(), int(size[0]))


def _fields(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in data.splitlines():
        key, _, value = line.strip().partition(b" ")
        yield key, value


class LfsObjects:
    """The objects of git-lfs that are on this machine."""

    def __init__(self, repo: Repository) -> None:
        self.folder = repo.common_dir / (repo.config("lfs.storage") or "lfs") / "objects"

    def has(self, pointer: Pointer) -> bool:
        """Whether the object is there in full. The empty file has none and needs none."""
        if not pointer.size:
            return True
        try:
            return self._path(pointer).stat().st_size == pointer.size
        except OSError:
            return False

    @contextlib.contextmanager
    def open(self, pointer: Pointer) -> Iterator["CheckedSource"]:
        """The file that the pointer stands for; reading it to its end raises `ContentChangedError` if it is damaged."""
        path = self._path(pointer)
        with open(path, "rb", buffering=0) as file:
            yield CheckedSource(file, hashlib.sha256(), pointer.oid, str(path))

    def _path(self, pointer: Pointer) -> Path:
        return self.folder / pointer.oid[:2] / pointer.oid[2:4] / pointer.oid


class CheckedSource:
    """A source whose bytes are hashed as they pass; at its end it raises `ContentChangedError` unless the hash is `expected`."""

    def __init__(self, source: Source, sha: "hashlib._Hash", expected: str, where: str) -> None:
        self._source = source
        self._sha = sha
        self._expected = expected
        self._where = where

    def readinto(self, buffer: memoryview, /) -> int:
        """As `Source.readinto`."""
        count = self._source.readinto(buffer) or 0
        if count:
            self._sha.update(buffer[:count])
            return count
        if self._sha.hexdigest() != self._expected:
            raise ContentChangedError(
                f"{self._where} is damaged: its bytes do not fit its name",
                hint="Bring an intact copy (git lfs fetch --all, git fsck) and run the command again; nothing was changed.",
            )
        return 0
