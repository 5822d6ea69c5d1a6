"""Which models the user's repository needs: those whose manifests anything in it names.

Looked at are all references of all worktrees, all reflogs, all indexes, and operations under way (`roots`). Each Git blob is
read once; the cache knows it from then on. What Git names and does not have here (a partial clone) is never fetched for this: it
counts as `absent`, unless its name is that of a manifest which the cache knows.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from typing import Any

from git_gru.git.repository import Repository
from git_gru.git.roots import adding_since, index_blobs, state_words
from git_gru.git.run import LOCAL_VARIABLES, lines
from git_gru.store.collect import Needs
from git_gru.store.manifest import MAX_MANIFEST, ManifestError, is_manifest, parse_manifest
from git_gru.store.stamps import Stamps

_AT_ONCE = 4096
_DIGEST = re.compile(rb'"digest": "([0-9a-f]{64})"')
_NOT_OURS = ("--exclude=refs/gru/store", "--exclude=refs/gru/remotes/*")
"""A hub's own store is no part of what its branches need."""


def find_needs(repo: Repository, stamps: Stamps) -> Needs:
    """What the repository needs of its store. Raises `UnreadableIndexError`, and `GitCommandError` where objects are lost."""
    adding = adding_since(repo)
    search = _Search(repo, stamps)
    # What moves from an index into a commit meanwhile is seen in the first look, what moves the other way in the last.
    search.look(index_blobs(repo))
    search.look(_reachable(repo, search.resolved(state_words(repo))))
    search.look(index_blobs(repo))
    return Needs(
        digests=frozenset(search.digests), absent=search.absent, adding_since=adding, in_git=search.has
    )


def models_named_by(repo: Repository, stamps: Stamps, namespace: str) -> tuple[frozenset[str], int]:
    """The digests of the models that references below `namespace` (as `refs/heads/`) reach, and how many objects are not here."""
    search = _Search(repo, stamps)
    search.look(_reachable(repo, (), f"--glob={namespace}*"))
    return frozenset(search.digests), search.absent


def own_chunks(repo: Repository, stamps: Stamps) -> Callable[[str], Collection[str] | None]:
    """A function that gives the chunks which a model's manifest names, by its digest; None where Git does not have it here."""
    search = _Search(repo, stamps)

    def chunks(digest: str) -> Collection[str] | None:
        for name in stamps.names(digest):
            if search.has(name):
                return parse_manifest(search.read(name), where=name.hex()).chunks()
        return None

    return chunks


class _Search:
    """Reads Git's blobs in search of manifests: `digests` are those found, `absent` counts what is not here."""

    def __init__(self, repo: Repository, stamps: Stamps) -> None:
        import pygit2

        self.digests: set[str] = set()
        self.absent = 0
        self._stamps = stamps
        self._repo: Any = repo.pygit2
        self._odb: Any = repo.pygit2.odb
        self._blob = pygit2.enums.ObjectType.BLOB
        self._oid: Callable[..., Any] = pygit2.Oid

    def has(self, name: bytes) -> bool:
        """Whether Git has an object of that name here."""
        return self._oid(raw=name) in self._odb

    def read(self, name: bytes) -> bytes:
        """The content of an object that is here."""
        content: bytes = self._odb.read(self._oid(raw=name))[1]
        return content

    def resolved(self, words: Iterable[str]) -> set[str]:
        """The full ids of the objects that `words` name; a word that names none, or several, is left out."""
        found = set()
        for word in words:
            try:
                found.add(str(self._repo.expand_id(word) if len(word) < 40 else self._repo[word].id))
            except (KeyError, ValueError):
                continue
        return found

    def look(self, names: Iterable[str]) -> None:
        """Notes the manifests among these objects (hex ids; those that are not here begin with `?`)."""
        rest = iter(names)
        while some := list(islice(rest, _AT_ONCE)):
            oids = [bytes.fromhex(name.removeprefix("?")) for name in some]
            known = self._stamps.known(oids)
            new: dict[bytes, str | None] = {}
            for oid in oids:
                if oid not in known and oid not in new:
                    self._sort(oid, new)
            self._stamps.learn(new)
            self.digests.update(digest for digest in (*known.values(), *new.values()) if digest is not None)

    def _sort(self, oid: bytes, new: dict[bytes, str | None]) -> None:
        try:
            kind, size = self._odb.read_header(self._oid(raw=oid))
            content = self.read(oid) if kind == self._blob and size <= MAX_MANIFEST else b""
        except KeyError:
            self.absent += 1
            return
        if kind != self._blob:
            return
        try:
            new[oid] = parse_manifest(content, where=oid.hex()).digest if is_manifest(content) else None
        except ManifestError:
            # Edited, merged as text, of a later format: what it says is not to be trusted, so it keeps all that it may mean.
            self.digests.update(digest.decode() for digest in _DIGEST.findall(content))


def _reachable(repo: Repository, roots: Collection[str], *chosen: str) -> Iterator[str]:
    """The ids of all blobs (and some other objects) that references, reflogs and `roots` reach; `?` before those not here.

    `chosen` (options of rev-list) takes the place of all references and reflogs.
    """
    listed = lines(
        "rev-list", "--objects", "--no-object-names", "--missing=print", "--filter=object:type=blob",
        *(chosen or (*_NOT_OURS, "--all", "--reflog")), "--stdin",
        cwd=repo.common_dir,
        input="".join(f"{root}\n" for root in sorted(roots)).encode(),
        env={**LOCAL_VARIABLES, "GIT_DIR": str(repo.common_dir), "GIT_NO_REPLACE_OBJECTS": "1"},
    )  # fmt: skip
    for line in listed:
        yield line.decode()
