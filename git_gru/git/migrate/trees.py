"""Rewriting trees: the files that the patterns name, and the attributes files, replaced; everything else as it was.

A file is *named* when its path matches a pattern and Git, by the attributes as they are after the rewrite, treats it as the
migration wants it: as a model for an import, as no model for an export. So every rewritten commit is one that `git add
--renormalize` would leave alone. A path that matches and is not named (a later line or a deeper attributes file says otherwise)
is left as it was, and told.

Each tree is rewritten once for each set of attributes files above it; one without matching files and attributes files is not
looked into again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from git_gru.errors import InputError
from git_gru.git.attributes import quote_pattern
from git_gru.git.migrate.attributes import NAME, Filters, Stack, covered, track_in, untrack_in
from git_gru.git.migrate.objects import FOLDER, ObjectReader, Sink, encode_tree, tree_order
from git_gru.store.trees import TreeItem

_FOLDERS = (FOLDER, b"040000")


class Direction(Enum):
    """Which way a migration goes."""

    FROM_GIT = "git"
    FROM_LFS = "lfs"
    EXPORT = "export"


class PatternOfAttributesError(InputError):
    """A pattern that would make attributes files models."""


class AttributesPlaceError(InputError):
    """What stands at `.gitattributes` is no file."""


class Place(NamedTuple):
    """Where a blob was met: its path in a commit."""

    path: bytes
    commit: bytes

    def __str__(self) -> str:
        return f"{self.path.decode('utf-8', 'surrogateescape')} in commit {self.commit.hex()[:10]}"


class Blobs(Protocol):
    """What becomes of the files that the patterns match."""

    def named(self, oid: bytes, place: Place) -> bytes:
        """The blob to put in the place of `oid`."""

    def left(self, oid: bytes, place: Place, filter: str) -> None:
        """The blob `oid` stays, because the attributes give its path this filter."""


@dataclass(frozen=True)
class _Below:
    """What is in a tree: files that match a pattern; those, or attributes files."""

    matches: bool
    concerned: bool


class Patterns:
    """The patterns of a migration, and what they do to attributes files."""

    def __init__(self, patterns: Sequence[str], direction: Direction, filters: Filters) -> None:
        self.direction = direction
        self._patterns = tuple(dict.fromkeys(patterns))
        self._filters = filters
        self._stacks = {p: _matching([p]) for p in self._patterns}
        self._all = _matching(self._patterns)
        self._edited: dict[tuple[bytes, bytes | None], bytes | None] = {}
        self.require_readable(NAME)

    def require_readable(self, path: bytes) -> None:
        """Raises `PatternOfAttributesError` where a pattern matches the attributes file `path`."""
        pattern = next((pattern for pattern in self._patterns if self._match(pattern, path)), None)
        if pattern is not None:
            raise PatternOfAttributesError(
                f"{pattern} matches {path.decode('utf-8', 'surrogateescape')}, which must stay readable for Git",
                hint="Name the models more closely: '*.safetensors'",
            )

    def match(self, path: bytes) -> bool:
        """Whether any of the patterns matches the path."""
        return self._filters.value(self._all, path) == "gru"

    def edit(self, text: bytes | None, folder: bytes) -> bytes | None:
        """The attributes file of a folder (`a/b/`) as it is after the migration; None for no file."""
        if (folder, text) not in self._edited:
            self._edited[folder, text] = (
                untrack_in(text, self._covers, folder)
                if self.direction is Direction.EXPORT
                else track_in(
                    text, self._patterns, self._covers, folder, lfs=self.direction is Direction.FROM_LFS
                )
            )
        return self._edited[folder, text]

    def filter(self, stack: Stack, path: bytes) -> str:
        """The filter that a path has under these attributes files."""
        return self._filters.value(stack, path)

    def _match(self, pattern: str, path: bytes) -> bool:
        return self._filters.value(self._stacks[pattern], path) == "gru"

    def _covers(self, line: str, folder: bytes) -> bool:
        place = folder.decode("utf-8", "surrogateescape")

        def matches(pattern: str) -> Callable[[str], bool]:
            return lambda path: self._match(pattern, path.encode("utf-8", "surrogateescape"))

        return any(covered(line, place, pattern, matches(pattern)) for pattern in self._patterns)


def _matching(patterns: Sequence[str]) -> Stack:
    lines = "".join(f"{quote_pattern(pattern)} filter=gru\n" for pattern in patterns)
    return ((b"", lines.encode("utf-8", "surrogateescape")),)


class TreeRewriter:
    """Rewrites the trees of one history."""

    def __init__(self, reader: ObjectReader, patterns: Patterns, blobs: Blobs, sink: Sink) -> None:
        self._reader = reader
        self._patterns = patterns
        self._blobs = blobs
        self._sink = sink
        self._below: dict[tuple[bytes, bytes], _Below] = {}
        self._done: dict[tuple[Stack, bytes, bytes], bytes | None] = {}
        self._commit = b""

    def has_match(self, root: bytes) -> bool:
        """Whether a file of the tree matches a pattern."""
        return self._look(b"", root).matches

    def root(self, root: bytes, commit: bytes) -> bytes:
        """The tree to put in the place of `root`, the top of a commit."""
        self._commit = commit
        new = self._rewritten(b"", root, ())
        return new if new is not None else self._sink.put("tree", b"")

    def _look(self, folder: bytes, tree: bytes) -> _Below:
        known = self._below.get((folder, tree))
        if known is None:
            matches = concerned = False
            for item in self._reader.tree(tree):
                if item.mode in _FOLDERS:
                    below = self._look(folder + item.name + b"/", item.oid)
                    matches, concerned = matches or below.matches, concerned or below.concerned
                elif _is_file(item):
                    concerned = concerned or item.name == NAME
                    matches = matches or self._patterns.match(folder + item.name)
            known = self._below[folder, tree] = _Below(matches, concerned or matches)
        return known

    def _rewritten(self, folder: bytes, tree: bytes, above: Stack) -> bytes | None:
        """The new tree; None where nothing is left of it."""
        if folder and not self._look(folder, tree).concerned:
            return tree
        key = (above, folder, tree)
        if key not in self._done:
            old = self._reader.tree(tree)
            items, stack = self._with_attributes(old, folder, above)
            new = [made for item in items if (made := self._item(item, folder, stack)) is not None]
            if new == list(old):
                self._done[key] = tree
            else:
                self._done[key] = self._sink.put("tree", encode_tree(new)) if new else None
        return self._done[key]

    def _with_attributes(
        self, items: Sequence[TreeItem], folder: bytes, above: Stack
    ) -> tuple[list[TreeItem], Stack]:
        """The items with this folder's attributes file rewritten, and the stack that counts here."""
        new = list(items)
        at = next((at for at, item in enumerate(items) if item.name == NAME), None)
        if at is not None and not _is_file(items[at]):
            if folder:
                return new, above  # Git passes over it
            raise AttributesPlaceError(
                f"in commit {self._commit.hex()[:10]}, .gitattributes is a folder or a symbolic link",
                hint="Git does not read such a one, so no file can be a model in that commit. Leave it out with --ref.",
            )
        if at is None and folder:
            return new, above
        self._patterns.require_readable(folder + NAME)
        before = self._reader.read(items[at].oid, "blob") if at is not None else None
        text = self._patterns.edit(before, folder)
        if at is not None:
            item = new.pop(at)
            if text is not None:
                new.insert(at, item if text == before else item._replace(oid=self._sink.put("blob", text)))
        elif text is not None:
            made = TreeItem(b"100644", NAME, self._sink.put("blob", text))
            at = next((at for at, item in enumerate(new) if tree_order(item) > NAME), len(new))
            new.insert(at, made)
        return new, above if text is None else (*above, (folder, text))

    def _item(self, item: TreeItem, folder: bytes, stack: Stack) -> TreeItem | None:
        path = folder + item.name
        if item.mode in _FOLDERS:
            tree = self._rewritten(path + b"/", item.oid, stack)
            return item._replace(oid=tree) if tree is not None else None
        if not _is_file(item) or not self._patterns.match(path):
            return item
        place = Place(path, self._commit)
        filter = self._patterns.filter(stack, path)
        if (filter == "gru") is (self._patterns.direction is Direction.EXPORT):
            self._blobs.left(item.oid, place, filter)
            return item
        return item._replace(oid=self._blobs.named(item.oid, place))


def _is_file(item: TreeItem) -> bool:
    return item.mode.startswith(b"100")
