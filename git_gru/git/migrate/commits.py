"""Rewriting commits and tags: another tree, other parents, another target; every other byte stays.

A commit whose tree and parents stay the same stays the same object. One that changes loses its signature, which no longer fits
it (`gpgsig`), and so does an annotated tag. A merged tag (`mergetag`, a copy of the signed tag that was merged) is dropped where
the commit that it names was rewritten. What was lost is told.

Formats: Documentation/technical/commit-format and signature-format of Git.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from git_gru.errors import StoreError
from git_gru.git.migrate.objects import ObjectReader, Sink

_SIGNATURES = (b"gpgsig ", b"gpgsig-sha256 ")
_SIGNED_TEXT = re.compile(
    rb"^-----BEGIN (?:PGP SIGNATURE|PGP MESSAGE|SIGNED MESSAGE|SSH SIGNATURE)-----", re.MULTILINE
)
_MERGED_TAG = re.compile(rb"mergetag object ([0-9a-f]{40})\n")


class MalformedObjectError(StoreError):
    """A commit or tag that is not as Git writes them."""


class Trees(Protocol):
    """What becomes of the trees of a history's commits."""

    def has_match(self, root: bytes) -> bool:
        """Whether the rewriting begins with a commit that has this tree, for a `sticky` history."""

    def root(self, root: bytes, commit: bytes) -> bytes:
        """The tree to put in the place of `root`, the tree of `commit`."""


class HistoryRewriter:
    """Gives every commit and tag its successor. `commits` and `tags` map old ids to new ones, unchanged ones included.

    `sticky` has the attributes written only from the first commit on that has a matching file (in it or before it); without it
    every commit's tree is rewritten.
    """

    def __init__(self, reader: ObjectReader, trees: Trees, sink: Sink, *, sticky: bool) -> None:
        self.commits: dict[bytes, bytes] = {}
        self.tags: dict[bytes, bytes] = {}
        self.unsigned: dict[bytes, None] = {}
        """Commits and tags, by their old ids, that lost a signature."""
        self._reader = reader
        self._trees = trees
        self._sink = sink
        self._sticky = sticky
        self._begun: set[bytes] = set()

    def commit(self, oid: bytes) -> None:
        """Rewrites a commit; its parents must have been before."""
        content = self._reader.read(oid, "commit")
        head, gap, message = content.partition(b"\n\n")
        headers = _headers(head)
        tree, parents = _tree_and_parents(headers, oid)
        if self._sticky and (not self._begun.isdisjoint(parents) or self._trees.has_match(tree)):
            self._begun.add(oid)
        new_tree = self._trees.root(tree, oid) if oid in self._begun or not self._sticky else tree
        new_parents = [self.commits[parent] for parent in parents]
        if (new_tree, new_parents) == (tree, parents):
            self.commits[oid] = oid
            return
        kept = [header for header in headers if not self._is_lost(header)]
        if len(kept) < len(headers):
            self.unsigned[oid] = None
        others = kept[1 + len(parents) :]
        made = [b"tree " + new_tree.hex().encode()]
        made += [b"parent " + parent.hex().encode() for parent in new_parents]
        self.commits[oid] = self._sink.put("commit", b"\n".join([*made, *others]) + gap + message)

    def tag(self, oid: bytes) -> bytes:
        """Rewrites an annotated tag, and the tags that it names; returns the new id."""
        if oid in self.tags:
            return self.tags[oid]
        content = self._reader.read(oid, "tag")
        head, gap, message = content.partition(b"\n\n")
        headers = _headers(head)
        target, kind = _target(headers, oid)
        new = target
        if kind == b"commit":
            new = self.commits[target]
        elif kind == b"tag":
            new = self.tag(target)
        if new == target:
            self.tags[oid] = oid
            return oid
        kept = [header for header in headers[1:] if not header.startswith(_SIGNATURES)]
        signed = list(_SIGNED_TEXT.finditer(message))
        if signed:
            message = message[: signed[-1].start()]
        if signed or len(kept) < len(headers) - 1:
            self.unsigned[oid] = None
        made = b"\n".join([b"object " + new.hex().encode(), *kept]) + gap + message
        self.tags[oid] = self._sink.put("tag", made)
        return self.tags[oid]

    def _is_lost(self, header: bytes) -> bool:
        if header.startswith(_SIGNATURES):
            return True
        merged = _MERGED_TAG.match(header)
        if merged is None:
            return False
        target = bytes.fromhex(merged[1].decode())
        return self.commits.get(target, target) != target


def rewrite_all(
    history: HistoryRewriter, commits: Iterable[bytes], told: Callable[[int], None] = lambda done: None
) -> None:
    """Rewrites `commits`, parents first, telling how many are done."""
    for done, oid in enumerate(commits, start=1):
        history.commit(oid)
        told(done)


def changed(renamed: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Only what changed its name."""
    return {old: new for old, new in renamed.items() if old != new}


def _headers(head: bytes) -> list[bytes]:
    """The headers, each with its lines of continuation."""
    return re.split(rb"\n(?! )", head)


def _tree_and_parents(headers: list[bytes], oid: bytes) -> tuple[bytes, list[bytes]]:
    try:
        tree = _named(headers[0], b"tree ")
        parents = []
        for header in headers[1:]:
            if not header.startswith(b"parent "):
                break
            parents.append(_named(header, b"parent "))
        return tree, parents
    except (ValueError, IndexError):
        raise MalformedObjectError(
            f"the commit {oid.hex()} is malformed", hint="See what is wrong with this history: git fsck"
        ) from None


def _target(headers: list[bytes], oid: bytes) -> tuple[bytes, bytes]:
    try:
        return _named(headers[0], b"object "), headers[1].removeprefix(b"type ")
    except (ValueError, IndexError):
        raise MalformedObjectError(
            f"the tag {oid.hex()} is malformed", hint="See what is wrong with this history: git fsck"
        ) from None


def _named(header: bytes, key: bytes) -> bytes:
    name = header.removeprefix(key)
    if len(name) != 40 or not header.startswith(key):
        raise ValueError(header)
    return bytes.fromhex(name.decode("ascii", "replace"))
