"""Notes: a tree whose names are the objects that are noted, so a rewritten commit's note needs a new name.

The history of a notes reference is rewritten commit by commit, so that each state of it speaks of the new commits. A name may be
cut into folders anywhere (`ab/cdef…`); it stays cut as it was.
"""

import re
from collections.abc import Mapping

from git_gru.git.migrate.objects import FOLDER, ObjectReader, Sink, encode_tree, tree_order
from git_gru.store.trees import TreeItem

_NAME = re.compile(rb"[0-9a-f/]+\Z")
Files = dict[bytes, TreeItem]


class NotesTrees:
    """Rewrites the trees of notes, as `TreeRewriter` those of other histories."""

    def __init__(self, reader: ObjectReader, renamed: Mapping[bytes, bytes], sink: Sink) -> None:
        self._reader = reader
        self._renamed = {old.hex().encode(): new.hex().encode() for old, new in renamed.items()}
        self._sink = sink
        self._files: dict[tuple[bytes, bytes], Files] = {}

    def root(self, root: bytes, commit: bytes) -> bytes:
        """The tree to put in the place of `root`."""
        files: Files = {}
        old = self._below(b"", root)
        for name, item in old.items():
            files.setdefault(self._new_name(name), item)
        return self._written(files) if files.keys() != old.keys() else root

    def has_match(self, root: bytes) -> bool:
        """Whether a note in the tree changes its name."""
        return self.root(root, b"") != root

    def _below(self, folder: bytes, tree: bytes) -> Files:
        known = self._files.get((folder, tree))
        if known is not None:
            return known
        files: Files = {}
        for item in self._reader.tree(tree):
            if item.mode == FOLDER:
                files |= self._below(folder + item.name + b"/", item.oid)
            else:
                files[folder + item.name] = item
        if folder:  # a commit's top is met once, its folders again and again
            self._files[folder, tree] = files
        return files

    def _new_name(self, name: bytes) -> bytes:
        plain = name.replace(b"/", b"")
        new = self._renamed.get(plain) if len(plain) == 40 and _NAME.match(name) else None
        if new is None:
            return name
        cuts = [len(part) for part in name.split(b"/")]
        parts = []
        for length in cuts:
            parts.append(new[:length])
            new = new[length:]
        return b"/".join(parts)

    def _written(self, files: Files) -> bytes:
        items: list[TreeItem] = []
        folders: dict[bytes, Files] = {}
        for path, item in files.items():
            name, slash, rest = path.partition(b"/")
            if slash:
                folders.setdefault(name, {})[rest] = item
            else:
                items.append(item._replace(name=name))
        items += [TreeItem(FOLDER, name, self._written(below)) for name, below in folders.items()]
        return self._sink.put("tree", encode_tree(sorted(items, key=tree_order)))
