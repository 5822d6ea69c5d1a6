"""Which of the repository's blobs are manifests: each blob is read once, the store's cache remembers.

For looking through whole histories. What is not here (a partial clone) is told and never fetched.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from git_gru.git.repository import Repository
from git_gru.store.manifest import (
    MAX_MANIFEST,
    Manifest,
    ManifestError,
    is_manifest,
    parse_manifest,
    stated_digest,
)
from git_gru.store.stamps import Stamps

_AT_ONCE = 4096
_DIGEST = re.compile(rb'"digest": "([0-9a-f]{64})"')


@dataclass(kw_only=True)
class Sorted:
    """What some blobs are: `digests` of those that are manifests, by the blobs' ids; how many are `absent`; and the digests
    that `suspects` state, texts that begin as manifests and are none (edited, merged as text, of a later format).
    """

    digests: dict[bytes, str] = field(default_factory=dict)
    absent: int = 0
    suspects: set[str] = field(default_factory=set)


class ManifestBlobs:
    """The manifests among the blobs of `repo`; `stamps` is the cache."""

    def __init__(self, repo: Repository, stamps: Stamps) -> None:
        import pygit2

        self._stamps = stamps
        self._odb: Any = repo.pygit2.odb
        self._blob = pygit2.enums.ObjectType.BLOB
        self._oid: Callable[..., Any] = pygit2.Oid

    def has(self, oid: bytes) -> bool:
        """Whether Git has an object of that id here."""
        return self._oid(raw=oid) in self._odb

    def manifest(self, oid: bytes) -> Manifest | None:
        """The manifest in a blob; None where it is none, or is not here."""
        try:
            return parse_manifest(self._odb.read(self._oid(raw=oid))[1], where=oid.hex())
        except (KeyError, ManifestError):
            return None

    def chunks_of(self, digest: str) -> list[str] | None:
        """The chunks of the model with that digest, where Git is known to have its manifest here."""
        manifest = next(filter(None, map(self.manifest, self._stamps.names(digest))), None)
        return None if manifest is None else manifest.chunks()

    def sort(self, names: Iterable[str]) -> Sorted:
        """What the objects with these ids (hex, perhaps behind a `?`) are."""
        found = Sorted()
        rest = iter(names)
        while some := [bytes.fromhex(name.removeprefix("?")) for name in islice(rest, _AT_ONCE)]:
            known = self._stamps.known(some)
            new: dict[bytes, str | None] = {}
            for oid in some:
                if oid not in known and oid not in new:
                    self._look(oid, new, found)
            self._stamps.learn(new)
            both = (*known.items(), *new.items())
            found.digests.update((oid, digest) for oid, digest in both if digest is not None)
        return found

    def _look(self, oid: bytes, new: dict[bytes, str | None], found: Sorted) -> None:
        try:
            kind, size = self._odb.read_header(self._oid(raw=oid))
            if kind != self._blob:
                return
            content = self._odb.read(self._oid(raw=oid))[1] if size <= MAX_MANIFEST else b""
        except KeyError:
            found.absent += 1
            return
        digest = stated_digest(content)
        if digest is None and is_manifest(content):
            found.suspects.update(name.decode() for name in _DIGEST.findall(content))
        else:
            new[oid] = digest
