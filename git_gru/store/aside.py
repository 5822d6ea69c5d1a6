"""Setting damaged packs aside: what is intact in one is copied into a new pack, and the pack leaves the store.

A pack that is cut short stands in the way: its index says that objects are here which are not, so nobody would ever fetch them
again. Nothing is deleted: such packs stand in `set-aside` from then on. Where only the index is damaged, it is made anew.
"""

import contextlib
import os
from pathlib import Path

from git_gru.errors import StoreError
from git_gru.store.bare import run_git
from git_gru.store.locking import one_at_a_time
from git_gru.store.open_files import OpenFiles
from git_gru.store.pack_reader import UNREADABLE, Pack
from git_gru.store.packs import KIND_NAMES, PackWriter, make_entry, sync_folder
from git_gru.store.store import Store
from git_gru.store.verify import pack_findings


def set_aside(store: Store) -> list[Path]:
    """Takes the damaged packs out of the store; returns where they are now.

    Raises `RewriteRunningError` while a repack or collection is under way.
    """
    folder = store.repository / "objects/pack"
    with one_at_a_time(store.folder), store.locked(alone=True):
        damaged = [
            index.with_suffix(".pack")
            for index in sorted(folder.glob("pack-*.idx"))
            if any(pack_findings(index.with_suffix(".pack")))
        ]
        return [_set_aside(pack, store.folder / "set-aside") for pack in damaged if not _indexed(store, pack)]


def _indexed(store: Store, path: Path) -> bool:
    """Makes a pack's index anew; False where the pack itself is damaged."""
    building = path.with_name(f"tmp_idx_{os.urandom(8).hex()}")
    try:
        run_git(store.repository, "index-pack", "--no-rev-index", "-o", str(building), str(path))
    except StoreError:
        building.unlink(missing_ok=True)
        return False
    building.replace(path.with_suffix(".idx"))
    return True


def _set_aside(path: Path, folder: Path) -> Path:
    writer = PackWriter(path.parent, 0)
    try:
        _copy_intact(path, writer)
    except BaseException:
        writer.abandon()
        raise
    writer.finish(promised=path.with_suffix(".promisor").exists())
    folder.mkdir(exist_ok=True)
    for suffix in (".idx", ".pack", ".promisor"):  # without its index, the pack is no part of the store
        with contextlib.suppress(FileNotFoundError):
            path.with_suffix(suffix).rename((folder / path.name).with_suffix(suffix))
    sync_folder(path.parent)
    return folder / path.name


def _copy_intact(path: Path, writer: PackWriter) -> None:
    """Copies the objects whose bytes are those of their names."""
    try:
        pack = Pack(path, OpenFiles())
        entries = pack.entries()
    except (StoreError, *UNREADABLE):
        return
    for oid, offset, _ in entries:
        with contextlib.suppress(StoreError, ValueError, *UNREADABLE):
            kind, content = pack.read(offset)
            entry = make_entry(KIND_NAMES[kind], [content])
            if entry.oid == oid:
                writer.add(entry)
