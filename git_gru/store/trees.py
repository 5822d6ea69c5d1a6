"""Trees and commits of the store: `format`, `models/<2 hex>/<62 hex>` and the model trees below.

A *model tree* `{<chunk id>: blob}` holds all chunks of one model and the bases that their encodings need, so each model is
self-contained: one tree says what to fetch, what to push, what to keep. The mode of an entry says how the chunk is kept, so that
whoever has the tree alone knows which blobs need no other.
"""

import hashlib
from collections.abc import Container, Iterator, Mapping
from typing import NamedTuple

from git_gru.errors import StoreError
from git_gru.ids import Buffer, is_id
from git_gru.store.objects import REPAIR, Objects
from git_gru.store.packs import Entry, make_entry

FORMAT_TEXT = b"git-gru store 1\n"
FORMAT = make_entry("blob", [FORMAT_TEXT])
TREE_MODE, BLOB_MODE, DELTA_MODE = b"40000", b"100644", b"100755"
EMPTY_TREE = hashlib.sha1(b"tree 0\0", usedforsecurity=False).digest()


class TreeError(StoreError):
    """A tree of the store that is not as docs/format.md says."""


class TreeItem(NamedTuple):
    """One line of a tree object."""

    mode: bytes
    name: bytes
    oid: bytes


def parse_tree(content: Buffer, *, where: str) -> Iterator[TreeItem]:
    """The items of a tree object. Raises `TreeError` where it is malformed."""
    data = bytes(content)
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        end = data.find(b"\0", space)
        if space < 0 or end < 0 or end + 21 > len(data):
            raise TreeError(f"{where}: the tree is malformed", hint=REPAIR)
        yield TreeItem(data[at:space], data[space + 1 : end], data[end + 1 : end + 21])
        at = end + 21


def make_tree(items: Mapping[bytes, tuple[bytes, bytes]]) -> Entry:
    """The tree with these items: name -> (mode, object id). Names are in Git's order (folders as if they ended in '/')."""
    order = sorted(items, key=lambda name: name + b"/" if items[name][0] == TREE_MODE else name)
    return make_entry("tree", [b"".join(b"%s %s\0%s" % (items[n][0], n, items[n][1]) for n in order)])


def make_model_tree(blobs: Mapping[str, bytes], deltas: Container[str]) -> Entry:
    """The model tree for chunks: id -> blob's object id. Those in `deltas` are kept as deltas."""
    return make_tree(
        {id.encode(): (DELTA_MODE if id in deltas else BLOB_MODE, oid) for id, oid in blobs.items()}
    )


def make_commit(tree: bytes) -> Entry:
    """The store's commit: no parent, no date, so that it is a function of its tree."""
    who = b"git-gru <git-gru@localhost> 0 +0000"
    return make_entry(
        "commit", [b"tree %s\nauthor %s\ncommitter %s\n\nstore\n" % (tree.hex().encode(), who, who)]
    )


def model_blobs(objects: Objects, tree: bytes) -> dict[str, bytes]:
    """The blobs of a model tree: chunk id -> object id."""
    return {id: oid for id, oid, _ in model_items(objects, tree)}


def model_deltas(objects: Objects, tree: bytes) -> frozenset[str]:
    """The chunks of a model tree that are kept as deltas."""
    return frozenset(id for id, _, is_delta in model_items(objects, tree) if is_delta)


def model_items(objects: Objects, tree: bytes) -> Iterator[tuple[str, bytes, bool]]:
    """(chunk id, object id, whether the blob is a delta) of a model tree."""
    where = f"model tree {tree.hex()}"
    for item in parse_tree(objects.expect(tree, "tree"), where=where):
        name = item.name.decode("ascii", "replace")
        if item.mode not in (BLOB_MODE, DELTA_MODE) or not is_id(name):
            raise TreeError(f"{where}: {name!r} is not a chunk", hint=REPAIR)
        yield name, item.oid, item.mode == DELTA_MODE


class StoreTree:
    """The upper trees of one state of the store: which models it has, and how the state with more models looks.

    `commit` is the store's commit (20 bytes), or None for an empty store.
    """

    def __init__(self, objects: Objects, commit: bytes | None) -> None:
        self.commit = commit
        self._objects = objects
        self._groups: dict[bytes, bytes] = {}
        self._models: dict[bytes, dict[bytes, bytes]] = {}
        if commit is not None:
            self._groups = {item.name: item.oid for item in self._folder(self._upper(), b"")}

    def model(self, digest: str) -> bytes | None:
        """The model tree of a manifest's digest, or None."""
        return self._group(digest[:2].encode()).get(digest[2:].encode())

    def models(self) -> dict[str, bytes]:
        """All models: manifest's digest -> model tree."""
        return {digest: tree for group in self.groups() for digest, tree in self.models_in(group).items()}

    def groups(self) -> list[str]:
        """The groups: the first two digits of the digests of the models that they hold."""
        return [group.decode() for group in self._groups]

    def models_in(self, group: str) -> dict[str, bytes]:
        """The models of one group: manifest's digest -> model tree."""
        return {group + rest.decode(): tree for rest, tree in self._group(group.encode()).items()}

    def forget_group(self, group: str) -> None:
        """Takes a group for one that holds no model, in what `write` makes as well: its tree is lost."""
        self._groups.pop(group.encode(), None)
        self._models[group.encode()] = {}

    def write(self, changes: Mapping[str, bytes | None]) -> tuple[bytes, list[Entry]]:
        """The state with `changes` (digest -> model tree, None to drop it): its commit and the new objects."""
        entries: list[Entry] = []
        groups = dict(self._groups)
        for group in {digest[:2].encode() for digest in changes}:
            items = dict(self._group(group))
            for digest, tree in changes.items():
                if digest[:2].encode() == group:
                    if tree is None:
                        items.pop(digest[2:].encode(), None)
                    else:
                        items[digest[2:].encode()] = tree
            if items:
                entries.append(make_tree({name: (TREE_MODE, tree) for name, tree in items.items()}))
                groups[group] = entries[-1].oid
            else:
                groups.pop(group, None)
        models = make_tree({name: (TREE_MODE, oid) for name, oid in groups.items()})
        root = make_tree({b"format": (BLOB_MODE, FORMAT.oid), b"models": (TREE_MODE, models.oid)})
        commit = make_commit(root.oid)
        # The format's few bytes go along each time: a repack deletes the pack that had them before.
        return commit.oid, [*entries, FORMAT, models, root, commit]

    def _upper(self) -> bytes:
        assert self.commit is not None
        items = {item.name: item for item in self._folder(self._root(self.commit), b"")}
        text = items.get(b"format")
        if text is None or b"models" not in items:
            raise TreeError("the store's tree has no format or no models", hint=REPAIR)
        content = bytes(self._objects.expect(text.oid, "blob"))
        if content != FORMAT_TEXT:
            raise TreeError(
                f"the store has the format {content[:60]!r}, this git-gru knows {FORMAT_TEXT!r}",
                hint="install a newer git-gru",
            )
        return items[b"models"].oid

    def _root(self, commit: bytes) -> bytes:
        text = bytes(self._objects.expect(commit, "commit"))
        if not text.startswith(b"tree ") or len(text) < 46:
            raise TreeError(f"the store's commit {commit.hex()} is malformed", hint=REPAIR)
        try:
            return bytes.fromhex(text[5:45].decode("ascii", "replace"))
        except ValueError:
            raise TreeError(f"the store's commit {commit.hex()} is malformed", hint=REPAIR) from None

    def _group(self, group: bytes) -> dict[bytes, bytes]:
        if group not in self._models:
            oid = self._groups.get(group)
            items = self._folder(oid, group) if oid else iter(())
            self._models[group] = {item.name: item.oid for item in items}
        return self._models[group]

    def _folder(self, tree: bytes, prefix: bytes) -> Iterator[TreeItem]:
        if tree == EMPTY_TREE:
            return
        for item in parse_tree(self._objects.expect(tree, "tree"), where=f"store tree {tree.hex()}"):
            if prefix and not is_id((prefix + item.name).decode("ascii", "replace")):
                raise TreeError(f"store tree {tree.hex()}: {item.name!r} is not a digest", hint=REPAIR)
            yield item
