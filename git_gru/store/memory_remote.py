"""A remote in memory: the reference implementation of `Remote`, for tests and for whoever writes the next one."""

import threading
from collections.abc import Iterable, Sequence

from git_gru.store.objects import Objects
from git_gru.store.packs import KINDS, Kind, PackWriter, make_entry
from git_gru.store.remote import RemoteError
from git_gru.store.trees import ordered_blobs, parse_tree

_KINDS: dict[str, Kind] = {kind: kind for kind in KINDS}
_UPPER_DEPTH = 3  # the root, `models` and its groups, but no model tree


class MemoryHub:
    """What `MemoryRemote`s share: objects by id as (kind, content), and the state."""

    def __init__(self) -> None:
        self.objects: dict[bytes, tuple[Kind, bytes]] = {}
        self.state: bytes | None = None
        self.moves: list[list[bytes]] = []
        """The blobs that each `move` has sent."""
        self.lock = threading.Lock()


class MemoryRemote:
    """`hub` as seen from the store whose objects are `objects`."""

    def __init__(self, hub: MemoryHub, objects: Objects, name: str = "memory") -> None:
        self.name = name
        self._hub = hub
        self._objects = objects

    def look(self) -> bytes | None:
        """As `Remote.look`."""
        state = self._hub.state
        if state is not None:
            self._take(self._reach(state, _UPPER_DEPTH))
        return state

    def trees(self, oids: Sequence[bytes]) -> None:
        """As `Remote.trees`."""
        self._take(oids)

    def models(self, trees: Sequence[bytes], chunks: Sequence[str]) -> None:
        """As `Remote.models`."""
        self._take(trees)
        self._take(ordered_blobs(self._objects, trees, chunks))

    def blobs(self, oids: Sequence[bytes]) -> None:
        """As `Remote.blobs`."""
        self._take(oids)

    def move(self, new: bytes, old: bytes | None, *, replace: bool = False, shared: bool = True) -> bool:
        """As `Remote.move`."""
        sent: list[bytes] = []
        self._send(new, sent)
        with self._hub.lock:
            if self._hub.state != old:
                return False
            self._hub.state = new
            self._hub.moves.append(sent)
            return True

    def _take(self, oids: Iterable[bytes]) -> None:
        missing = self._objects.absent(oids)
        pack = PackWriter(self._objects.folder / "objects/pack", len(missing))
        for oid in missing:
            if oid not in self._hub.objects:
                pack.abandon()
                raise RemoteError(f"the remote {self.name} lacks the object {oid.hex()}")
            kind, content = self._hub.objects[oid]
            pack.add(make_entry(kind, [content]))
            self._objects.has_come(pack)
        pack.finish()

    def _reach(self, commit: bytes, depth: int) -> list[bytes]:
        """The commit, and the trees and blobs less than `depth` below it."""
        found = [commit]
        level = [bytes.fromhex(self._hub.objects[commit][1][5:45].decode())]
        for _ in range(depth):
            found += level
            level = [
                item.oid
                for oid in level
                if self._hub.objects[oid][0] == "tree"
                for item in parse_tree(self._hub.objects[oid][1], where="hub")
            ]
        return found

    def _send(self, oid: bytes, sent: list[bytes]) -> None:
        if oid in self._hub.objects:
            return
        name, buffer = self._objects.read(oid)
        kind, content = _KINDS[name], bytes(buffer)
        below: Iterable[bytes] = ()
        if kind == "tree":
            below = [item.oid for item in parse_tree(content, where="sent")]
        elif kind == "commit":
            below = [bytes.fromhex(content[5:45].decode())]
        else:
            sent.append(oid)
        for other in below:
            self._send(other, sent)
        self._hub.objects[oid] = (kind, content)
