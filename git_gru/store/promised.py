"""What is here of remotes' states: `refs/gru/remotes/<name>` names a commit of the remote's `refs/gru/store`.

Its upper trees are here, most of its model trees and blobs are not: to Git they are *promised*. What of it is here is kept by
every rewrite, in a pack of its own that says so.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from git_gru.errors import StoreError
from git_gru.store.objects import ObjectMissingError, Objects
from git_gru.store.packs import Entry, PackWriter, make_entry
from git_gru.store.trees import TREE_MODE, parse_tree

REMOTES = "refs/gru/remotes/"

_MODELS_DEPTH = 3  # of model trees below the root; only chunks are blobs of trees that deep


def remote_tips(repository: Path) -> dict[str, bytes]:
    """The remotes' states that were fetched last: name -> commit."""
    tips: dict[str, bytes] = {}
    packed = repository / "packed-refs"
    for line in packed.read_text().splitlines() if packed.is_file() else ():
        oid, _, ref = line.partition(" ")
        if ref.startswith(REMOTES):
            tips[ref.removeprefix(REMOTES)] = bytes.fromhex(oid)
    folder = repository / REMOTES
    for path in folder.rglob("*"):
        with contextlib.suppress(
            OSError, ValueError
        ):  # a folder, a lock, a reference that is just being moved
            tips[str(path.relative_to(folder))] = bytes.fromhex(path.read_text().strip())
    return tips


def keep_promised(repository: Path, entries: Sequence[Entry]) -> None:
    """Writes objects of a state that is on its way to a remote: what they name may be absent here."""
    pack = PackWriter(repository / "objects/pack", len(entries))
    for entry in entries:
        pack.add(entry)
    pack.finish(promised=True)


def remote_objects(objects: Objects) -> Iterator[Entry]:
    """The commits and trees of the remotes' states that are here, and the small blobs above the model trees."""
    wanted = [(oid, 0) for oid in remote_tips(objects.folder).values()]
    seen: set[bytes] = set()
    while wanted:
        oid, depth = wanted.pop()
        if oid in seen:
            continue
        seen.add(oid)
        try:
            kind, content = objects.read(oid)
        except ObjectMissingError:
            continue
        data = bytes(content)
        if kind == "commit":
            names = (line.split(b" ") for line in data.partition(b"\n\n")[0].splitlines())
            wanted += [
                (bytes.fromhex(words[1].decode()), 0) for words in names if words[0] in (b"tree", b"parent")
            ]
            yield make_entry("commit", [data])
        elif kind == "tree":
            with contextlib.suppress(StoreError):
                items = list(parse_tree(data, where=f"tree {oid.hex()} of a remote"))
                below = depth + 1
                wanted += [
                    (item.oid, below) for item in items if item.mode == TREE_MODE or below < _MODELS_DEPTH
                ]
            yield make_entry("tree", [data])
        elif kind == "blob":
            yield make_entry("blob", [data])
