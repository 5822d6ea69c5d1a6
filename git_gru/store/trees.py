"""Trees and commits of the store: `format`, `models/<2 hex>/<62 hex>` and the model trees below.

A *model tree* `{<chunk id>: blob}` holds all chunks of one model and the bases that their encodings need, so each model is
self-contained: one tree says what to fetch, what to push, what to keep. The mode of an entry says how the chunk is kept, so that
whoever has the tree alone knows which blobs need no other.
"""

import hashlib
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol, TypeVar

from git_gru.errors import StoreError
from git_gru.ids import Buffer, is_id
from git_gru.store.objects import Objects
from git_gru.store.pack_reader import REPAIR
from git_gru.store.packs import Entry, make_entry

FORMAT_TEXT = b"git-gru store 1\n"
FORMAT = make_entry("blob", [FORMAT_TEXT])
TREE_MODE, BLOB_MODE, DELTA_MODE = b"40000", b"100644", b"100755"
_GROUP = re.compile(rb"[0-9a-f]{2}")
_GROUP_ITEM = re.compile(rb"40000 ([0-9a-f]{62})\0(.{20})", re.DOTALL)
_GROUP_ITEM_BYTES = 6 + 62 + 1 + 20
EMPTY_TREE = hashlib.sha1(b"tree 0\0", usedforsecurity=False).digest()


class TreeError(StoreError):
    """A tree of the store that is not as docs/format.md says."""


class KeptChunk(Protocol):
    """How a chunk is kept."""

    @property
    def oid(self) -> bytes:
        """Its blob's object id."""
        ...

    @property
    def base(self) -> str | None:
        """The id of its base, None for a plain one."""
        ...


K = TypeVar("K", bound=KeptChunk)


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


def make_commit(tree: bytes, parent: bytes | None = None) -> Entry:
    """The store's commit: no date, so that it is a function of its tree and parent. Only a remote's commits have a parent."""
    who = b"git-gru <git-gru@localhost> 0 +0000"
    above = b"parent %s\n" % parent.hex().encode() if parent else b""
    text = b"tree %s\n%sauthor %s\ncommitter %s\n\nstore\n"
    return make_entry("commit", [text % (tree.hex().encode(), above, who, who)])


def root_of(objects: Objects, commit: bytes) -> bytes:
    """The root tree of a commit. Raises `TreeError` where the commit is malformed."""
    text = bytes(objects.expect(commit, "commit"))
    try:
        if text.startswith(b"tree ") and len(text) >= 46:
            return bytes.fromhex(text[5:45].decode("ascii", "replace"))
    except ValueError:
        pass
    raise TreeError(f"the store's commit {commit.hex()} is malformed", hint=REPAIR)


def model_blobs(objects: Objects, tree: bytes) -> dict[str, bytes]:
    """The blobs of a model tree: chunk id -> object id."""
    return {id: oid for id, oid, _ in model_items(objects, tree)}


def ordered_blobs(objects: Objects, trees: Iterable[bytes], chunks: Iterable[str]) -> list[bytes]:
    """The blobs of model trees, those of `chunks` first and in this order; of a tree that is missing or none, no blob."""
    found = {id: oid for tree in trees for id, oid, _ in items_there(objects, tree)}
    return [found[id] for id in dict.fromkeys((*chunks, *found)) if id in found]


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


def items_there(objects: Objects, tree: bytes) -> list[tuple[str, bytes, bool]]:
    """As `model_items`; nothing where the tree is missing or damaged."""
    try:
        return list(model_items(objects, tree))
    except StoreError:
        return []


def with_bases(chunks: Mapping[str, K], ids: Iterable[str]) -> dict[str, K] | None:
    """Those of `chunks` with these ids, and the bases that they need; None where one is not among them."""
    needed: dict[str, K] = {}
    for id in ids:
        wanted: str | None = id
        while wanted is not None and wanted not in needed:
            chunk = chunks.get(wanted)
            if chunk is None:
                return None
            needed[wanted] = chunk
            wanted = chunk.base
    return needed


def tree_of(chunks: Mapping[str, KeptChunk]) -> Entry:
    """The model tree of chunks that are kept like this."""
    deltas = {id for id, chunk in chunks.items() if chunk.base is not None}
    return make_model_tree({id: chunk.oid for id, chunk in chunks.items()}, deltas)


class StoreTree:
    """The upper trees of one state of the store: which models it has, and how the state with more models looks.

    `commit` is the store's commit (20 bytes), or None for an empty store. Of a remote's state, by manifest's digest: `incoming`
    has trees with those chunks that have arrived of a model too large for one push, `unneeded` the time (seconds since 1970) at
    which a collector first saw that no reference of the remote reaches the model.
    """

    def __init__(self, objects: Objects, commit: bytes | None) -> None:
        self.commit = commit
        self.incoming: dict[str, bytes] = {}
        self.unneeded: dict[str, int] = {}
        self._objects = objects
        self._groups: dict[bytes, bytes] = {}
        self._models: dict[bytes, dict[bytes, bytes]] = {}
        if commit is not None:
            self._read(commit)

    def model(self, digest: str) -> bytes | None:
        """The model tree of a manifest's digest, or None."""
        return self._group(digest[:2].encode()).get(digest[2:].encode())

    def models(self) -> dict[str, bytes]:
        """All models: manifest's digest -> model tree."""
        return {digest: tree for group in self.groups() for digest, tree in self.models_in(group).items()}

    def groups(self) -> list[str]:
        """The groups: the first two digits of the digests of the models that they hold."""
        return [
            group.decode("latin-1") for group in self._groups
        ]  # a name that is no group is told when it is read

    def models_in(self, group: str) -> dict[str, bytes]:
        """The models of one group: manifest's digest -> model tree."""
        return {group + rest.decode(): tree for rest, tree in self._group(group.encode("latin-1")).items()}

    def write(
        self,
        changes: Mapping[str, bytes | None],
        *,
        parent: bytes | None = None,
        incoming: Mapping[str, bytes] | None = None,
        unneeded: Mapping[str, int] | None = None,
        padding: int = 0,
    ) -> tuple[bytes, list[Entry]]:
        """The state with `changes` (digest -> model tree, None to drop it): its commit and the new objects.

        The rest is for remotes: the commit's `parent`, the `incoming` trees, the `unneeded` models, and so many objects
        without use. (A Git server
        keeps a push of fewer than 100 objects as loose objects, which it compresses once more, and again whenever somebody
        fetches them.)
        """
        entries, folders = self._changed(changes)
        if incoming:
            entries.append(make_tree({id.encode(): (TREE_MODE, tree) for id, tree in incoming.items()}))
            folders[b"incoming"] = (TREE_MODE, entries[-1].oid)
        if unneeded:
            times = {digest: make_entry("blob", [b"%d\n" % when]) for digest, when in unneeded.items()}
            marks = make_tree({digest.encode(): (BLOB_MODE, time.oid) for digest, time in times.items()})
            entries += [*times.values(), marks]
            folders[b"unneeded"] = (TREE_MODE, marks.oid)
        if padding > 0:
            about = (parent or b"").hex()
            fill = [make_entry("blob", [f"padding {about} {at}\n".encode()]) for at in range(padding)]
            entries += fill
            entries.append(make_tree({b"%d" % at: (BLOB_MODE, entry.oid) for at, entry in enumerate(fill)}))
            for _ in range(2):  # as deep as model trees, so that nobody is sent it who looks at the state
                entries.append(make_tree({b"-": (TREE_MODE, entries[-1].oid)}))
            folders[b"padding"] = (TREE_MODE, entries[-1].oid)
        root = make_tree(folders)
        commit = make_commit(root.oid, parent)
        return commit.oid, [*entries, root, commit]

    def _changed(
        self, changes: Mapping[str, bytes | None]
    ) -> tuple[list[Entry], dict[bytes, tuple[bytes, bytes]]]:
        """New objects below the root, and the root's items, with `changes` made."""
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
        # The format's few bytes go along each time: a repack deletes the pack that had them before.
        return [*entries, FORMAT, models], {
            b"format": (BLOB_MODE, FORMAT.oid),
            b"models": (TREE_MODE, models.oid),
        }

    def _read(self, commit: bytes) -> None:
        items = {item.name: item for item in self._folder(root_of(self._objects, commit))}
        text = items.get(b"format")
        if text is None or b"models" not in items:
            raise TreeError(f"the store's state {commit.hex()} has no format or no models", hint=REPAIR)
        content = bytes(self._objects.expect(text.oid, "blob"))
        if content != FORMAT_TEXT:
            raise TreeError(
                f"the store's state {commit.hex()} has the format {content[:60]!r}, this git-gru knows {FORMAT_TEXT!r}",
                hint="install a newer git-gru",
            )
        self._groups = {item.name: item.oid for item in self._folder(items[b"models"].oid)}
        if b"incoming" in items:
            # What is under no digest is nobody's, and is left out of the next state
            arrived = self._folder(items[b"incoming"].oid)
            named = {item.name.decode("ascii", "replace"): item for item in arrived}
            self.incoming = {
                id: item.oid for id, item in named.items() if is_id(id) and item.mode == TREE_MODE
            }
        if b"unneeded" in items:
            for item in self._folder(items[b"unneeded"].oid):
                when = bytes(self._objects.expect(item.oid, "blob")).strip()
                if not (when.isdigit() and len(when) < 16):
                    raise TreeError(
                        f"the time at which {item.name!r} was seen unneeded is not one", hint=REPAIR
                    )
                self.unneeded[item.name.decode("ascii", "replace")] = int(when)

    def _group(self, group: bytes) -> dict[bytes, bytes]:
        """The models of `models/<group>`: the rest of their digests -> model tree."""
        if group not in self._models:
            oid = self._groups.get(group, EMPTY_TREE)
            content = bytes(self._objects.expect(oid, "tree")) if oid != EMPTY_TREE else b""
            # item by item, 10,000 models take 0.1 s
            items: dict[bytes, bytes] = dict(_GROUP_ITEM.findall(content))
            if len(content) != len(items) * _GROUP_ITEM_BYTES or not _GROUP.fullmatch(group):
                raise TreeError(
                    f"store tree {oid.hex()}: not every name below models/ is a digest", hint=REPAIR
                )
            self._models[group] = items
        return self._models[group]

    def _folder(self, tree: bytes) -> Iterator[TreeItem]:
        if tree != EMPTY_TREE:
            yield from parse_tree(self._objects.expect(tree, "tree"), where=f"store tree {tree.hex()}")
