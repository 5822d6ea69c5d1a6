"""A Git repository on this machine as a remote of the store: its objects are read where they are.

Between two gits every byte of a chunk is hashed three times, by a SHA-1 made to be safe rather than fast, and passes four
processes. Reading the other repository's packs does without: an entry is checked against its CRC and written.
What is sent there goes by `git push` as anywhere else, so that its hooks and settings have their say.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from git_gru.errors import StoreError
from git_gru.git.git_remote import GitRemote, Tell
from git_gru.git.run import Environment
from git_gru.store.bare import read_ref
from git_gru.store.objects import Objects
from git_gru.store.pack_reader import REPAIR, ObjectDamagedError
from git_gru.store.packs import KINDS, Entry, Kind, PackWriter, make_entry
from git_gru.store.pipeline import ordered_map
from git_gru.store.remote import NOT_OURS, RemoteError
from git_gru.store.store import REF, Store
from git_gru.store.trees import TREE_MODE, ordered_blobs, parse_tree, root_of

_UPPER_DEPTH = 2
"""Below the root tree, above the model trees: `models` and its groups."""

_DAMAGED = "git fsck, there, tells more. How a hub is mended: docs/maintenance.md, A hub that is damaged"

_KINDS: dict[str, Kind] = {kind: kind for kind in KINDS}


def remote_at(
    store: Store,
    name: str,
    url: str,
    environment: Environment,
    *,
    optional: bool = False,
    plain: bool = False,
    tell: Tell | None = None,
) -> GitRemote:
    """The Git repository at `url` as a remote of `store`, reached in the way that is fastest; see `GitRemote`."""
    folder = local_repository(url)
    if folder is None:
        return GitRemote(store, name, url, environment, optional=optional, plain=plain, tell=tell)
    return LocalRemote(store, name, url, environment, folder, tell=tell)


def local_repository(url: str) -> Path | None:
    """The Git folder at `url`, an absolute path or a `file://` address, if its references are files (Git's default)."""
    path = Path(url.removeprefix("file://"))
    for folder in (path, path / ".git") if path.is_absolute() else ():
        if (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir():
            return None if (folder / "reftable").exists() else folder
    return None


class LocalRemote(GitRemote):
    """The Git folder `folder` of the repository at `url`, as a remote of `store`."""

    def __init__(
        self,
        store: Store,
        name: str,
        url: str,
        environment: Environment,
        folder: Path,
        *,
        tell: Tell | None = None,
    ) -> None:
        super().__init__(store, name, url, environment, tell=tell)
        self._folder = folder
        self._hub = Objects(folder)

    def look(self) -> bytes | None:
        """As `Remote.look`."""
        try:
            state = read_ref(self._folder, REF)
            if state is not None:
                self._take(self._upper(state))
        except (OSError, StoreError) as error:
            raise self._failed("cannot be read", error) from error
        return state

    def trees(self, oids: Sequence[bytes]) -> None:
        """As `Remote.trees`."""
        self.blobs(oids)

    def models(self, trees: Sequence[bytes], chunks: Sequence[str]) -> None:
        """As `Remote.models`."""
        self.trees(trees)
        self.blobs(ordered_blobs(self._store.objects, trees, chunks))

    def blobs(self, oids: Sequence[bytes]) -> None:
        """As `Remote.blobs`."""
        try:
            self._take(oids)
        except (OSError, StoreError) as error:
            raise self._failed("does not give what it should have", error) from error

    def _remember(self, state: bytes) -> None:
        """Nothing: it can be looked at at any time."""

    def _upper(self, state: bytes) -> list[bytes]:
        """The commit, and what is less than `_UPPER_DEPTH` below it."""
        found, trees = [state], [root_of(self._hub, state)]
        found += trees
        for _ in range(_UPPER_DEPTH):
            items = [
                item for oid in trees for item in parse_tree(self._hub.expect(oid, "tree"), where=oid.hex())
            ]
            found += [item.oid for item in items]
            trees = [item.oid for item in items if item.mode == TREE_MODE]
        return found

    def _take(self, oids: Iterable[bytes]) -> None:
        """Copies what is not here into a pack of its own."""
        absent = self._store.objects.absent(oids)
        writer = PackWriter(self._store.repository / "objects/pack", len(absent))
        try:
            for entry in ordered_map(self._store.pool, self._entry, absent, ahead=self._store.cores + 1):
                writer.add(entry)
                self._store.objects.has_come(writer)
        except BaseException:
            writer.abandon()
            raise
        writer.finish(promised=True)

    def _entry(self, oid: bytes) -> Entry:
        if (copied := self._hub.entry(oid)) is not None:
            return copied
        name, content = self._hub.read(oid)
        entry = make_entry(_KINDS[name], [content])
        if entry.oid != oid:
            raise ObjectDamagedError(f"its object {oid.hex()} is damaged", hint=_DAMAGED)
        return entry

    def _failed(self, what: str, error: Exception) -> RemoteError:
        hint = NOT_OURS if isinstance(error, StoreError) and error.hint == REPAIR else None
        hint = error.hint if hint is None and isinstance(error, ObjectDamagedError) else hint
        return RemoteError(f"the remote {self.name} ({self.url}) {what}: {error}", hint=hint)
