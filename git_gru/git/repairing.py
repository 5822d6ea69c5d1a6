"""Repair: `git gru repair` puts a damaged store together from what is intact, and fetches the rest from remotes.

1. Packs that are cut short, or not those of their indexes, are set aside (`store/aside.py`).
2. Where the store's commit or trees are lost, or models that the repository names are in none of them and on no remote, the state
   is made anew from the chunks that are there (`store/salvage.py`). Models that were here and of which chunks are lost are
   fetched again.
3. Every chunk of the models here is decoded and compared with its id.
4. Chunks that are damaged are written anew from intact copies elsewhere in the store (`store/mend.py`), or else fetched from the
   first remote that has them (`store/repair.py`).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from git_gru.errors import StoreError
from git_gru.git.elsewhere import Elsewhere, find_elsewhere
from git_gru.git.needs import named_objects
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader
from git_gru.git.sources import sources
from git_gru.store.aside import set_aside
from git_gru.store.bring import bring
from git_gru.store.locking import one_at_a_time
from git_gru.store.manifest import Manifest
from git_gru.store.mend import intact_copies, mend
from git_gru.store.pipeline import ordered_map
from git_gru.store.remote import RemoteError
from git_gru.store.repair import Repaired, repair
from git_gru.store.salvage import Salvaged, is_readable, salvage
from git_gru.store.store import Store

Progress = Callable[[int, int], None]
"""Told (done, all) in bytes."""


@dataclass(frozen=True, kw_only=True)
class Mended:
    """What a repair did. `aside` is where damaged packs are now. `salvaged` is None where the state was not made anew. Of models
    that it lacks, `fetched` came again, `elsewhere` says which remotes have others, and `lost` are on no remote. `left` are
    chunks that nobody gives, and why.
    """

    models: int
    aside: tuple[Path, ...]
    salvaged: Salvaged | None
    fetched: int
    elsewhere: Elsewhere
    lost: tuple[str, ...]
    chunks: int
    left: Mapping[str, str]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is lost."""
        return not self.lost and not self.left


def repair_store(repo: Repository, *, read_packs: bool = False, progress: Progress | None = None) -> Mended:
    """Repairs the repository's store; see the module. `read_packs` has the packs read even if the trees are whole.

    What cannot be repaired is told in the answer, not raised.

    Raises `RewriteRunningError` while a repack or collection is under way.
    """
    store = repo.store()
    store.supply = None  # nothing is fetched on the way but what is damaged
    try:
        manifests = {manifest.digest: manifest for manifest in _manifests(repo)}
        before = _models_before(store)
        aside = set_aside(store)
        readable = is_readable(store)
        unnamed = manifests.keys() - (store.models().keys() if readable else ())
        elsewhere = find_elsewhere(repo, manifests if unnamed or read_packs else ())
        salvaged = None
        if read_packs or not readable or unnamed - elsewhere.remotes.keys():
            salvaged = salvage(store, manifests.values(), progress)
        again = [manifests[name] for name in manifests.keys() & before if not store.has_model(name)]
        with contextlib.suppress(StoreError, RemoteError):  # what did not come is told below
            bring(store, sources(repo, store), again, progress)
        absent = {name for name in manifests if not store.has_model(name)}
        here = [manifest for name, manifest in manifests.items() if store.has_model(name)]
        broken = _broken(store, here, progress)
        mended = 0
        if broken:
            with one_at_a_time(store.folder):
                mended = mend(store, intact_copies(store, {id for ids in broken.values() for id in ids}))
        if mended:
            broken = _broken(store, list(broken), None)
        done = repair(store, lambda scratch: sources(repo, scratch), broken) if broken else Repaired(0, {})
        return Mended(
            models=len(here),
            aside=tuple(aside),
            salvaged=salvaged,
            fetched=sum(manifest.digest not in absent for manifest in again),
            elsewhere=elsewhere.only(absent),
            lost=tuple(sorted(absent - elsewhere.remotes.keys())),
            chunks=mended + done.chunks,
            left=done.left,
        )
    finally:
        store.close()


def _models_before(store: Store) -> set[str]:
    """The models that the store had before the damage, as far as its cache or its trees tell."""
    known = store.lookup.models()
    with contextlib.suppress(StoreError):
        known |= store.models().keys()
    return known


def _manifests(repo: Repository) -> Iterator[Manifest]:
    """All models that the repository names."""
    reader = ModelReader(repo, skip_unreadable=True)
    for name in named_objects(repo):
        manifest = None if name.startswith("?") else reader.manifest(name, name)  # a partial clone lacks some
        if manifest is not None:
            yield manifest


def _broken(store: Store, manifests: list[Manifest], progress: Progress | None) -> dict[Manifest, list[str]]:
    """The chunks of each model that cannot be read or are not what their ids say."""
    of_chunk: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        for id in dict.fromkeys(manifest.chunks()):
            of_chunk.setdefault(id, []).append(manifest)
    broken: dict[Manifest, list[str]] = {}
    every, done = sum(manifest.size for manifest in manifests), 0

    def read(item: tuple[str, Manifest]) -> tuple[str, int]:
        id, manifest = item
        try:
            return id, len(store.chunk_of(manifest, store.blobs(manifest), id))
        except StoreError:
            return id, -1

    todo = ((id, owners[0]) for id, owners in of_chunk.items())
    for id, length in ordered_map(store.pool, read, todo, ahead=store.cores + 1):
        done += max(length, 0)
        if progress is not None:
            progress(min(done, every), every)
        if length < 0:
            for owner in of_chunk[id]:
                broken.setdefault(owner, []).append(id)
    return broken
