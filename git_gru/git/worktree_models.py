"""Models in the worktree, written by git-gru itself: `git gru pull`.

Git holds a whole file in memory when it checks one out. Here the worktree's file is written chunk by chunk beside its place and
renamed into it, and the index is told of the new file; a manifest is replaced only by the weights that it stands for. As with
Git, what is beyond a symbolic link is not in the worktree: nothing is written there.
"""

import glob
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from git_gru.errors import InputError
from git_gru.git.git_remote import Tell
from git_gru.git.missing import naming_commits
from git_gru.git.repository import Repository
from git_gru.git.revisions import index_models
from git_gru.git.run import is_running
from git_gru.git.selection import PATHS_HINT, NothingMatchesError, Selection
from git_gru.git.sources import sources
from git_gru.store.bring import Brought, Progress, bring
from git_gru.store.manifest import Manifest, ManifestError, is_manifest, parse_manifest
from git_gru.store.restore import restore
from git_gru.store.store import Store


class BeyondLinkError(InputError):
    """A path of the index that a symbolic link in the worktree leads elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What `pull` did: the paths whose weights stand in the worktree now, and what was fetched for that."""

    written: tuple[str, ...]
    brought: Brought


def pull(
    repo: Repository, paths: Sequence[str] = (), *, tell: Tell | None = None, progress: Progress | None = None
) -> Pulled:
    """Puts weights in place of the manifests in the worktree.

    `paths` (as for git log, from the worktree's top) limits it, and fills in models that are missing there; without them the
    settings `gru.fetchInclude` and `gru.fetchExclude` do, and what is missing was deleted on purpose. What a sparse checkout
    leaves out is written only if its file is among `paths`. Files that hold anything else are left alone.

    Raises `NothingMatchesError` for one of `paths` that no model is at, and `BeyondLinkError` for one beyond a symbolic link,
    before anything is written, and what `bring` raises.
    """
    top = repo.require_worktree()
    selection = Selection.of(repo)
    sparse = _left_out(repo) - set(paths)
    models = index_models(repo)
    there = _files(repo, paths) if paths else None
    for name in paths:
        if models.keys().isdisjoint(_files(repo, [name])):
            raise NothingMatchesError(f"no model of the index is at {name}", hint=PATHS_HINT)
    chosen = {
        path: manifest
        for path, manifest in models.items()
        if path not in sparse and (selection.allows(path) if there is None else path in there)
    }
    for path in chosen if paths else ():
        _require_inside(top, path)
    wanted = {
        path: manifest
        for path, manifest in chosen.items()
        if _link_above(top, path) is None and _stands_in(top / path, manifest, missing=bool(paths))
    }
    store = repo.store()
    try:
        with naming_commits(repo, wanted.values()):
            brought = bring(store, sources(repo, store, tell), list(wanted.values()), progress)
        for path, manifest in wanted.items():
            _require_inside(top, path)  # still: fetching may have taken hours
            _write(store, top / path, manifest)
    finally:
        store.close()
    if wanted:
        listed = "\0".join(wanted).encode("utf-8", "surrogateescape")
        repo.git("update-index", "-z", "--stdin", input=listed)
    return Pulled(written=tuple(wanted), brought=brought)


def _files(repo: Repository, paths: Sequence[str]) -> set[str]:
    """The files of the index at `paths`."""
    return set(repo.git("ls-files", "-z", "--", *paths).decode("utf-8", "surrogateescape").split("\0"))


def _link_above(top: Path, path: str) -> Path | None:
    """The first folder of `path` that is a symbolic link in the worktree."""
    folders = list((top / path).relative_to(top).parents)[-2::-1]  # from the top down, without the top itself
    return next((folder for folder in folders if (top / folder).is_symlink()), None)


def _require_inside(top: Path, path: str) -> None:
    link = _link_above(top, path)
    if link is not None:
        raise BeyondLinkError(
            f"{path} is beyond a symbolic link: {link} is a folder in the index and a link in the worktree",
            hint=f"Move the link away, or take the folder out of the index (git rm -r --cached {link}).",
        )


def _left_out(repo: Repository) -> set[str]:
    """The paths that a sparse checkout leaves out of the worktree."""
    entries = repo.git("ls-files", "-t", "-z").decode("utf-8", "surrogateescape").split("\0")
    return {entry[2:] for entry in entries if entry.startswith("S ")}


def _stands_in(file: Path, manifest: Manifest, *, missing: bool) -> bool:
    """Whether the model's manifest stands in its place, or nothing does where a `missing` one is wanted."""
    try:
        if stat.S_ISLNK(file.lstat().st_mode) or not file.is_file():
            return False
        with file.open("rb") as data:
            head = data.read(64)
            return (
                is_manifest(head)
                and parse_manifest(head + data.read(), where=str(file)).digest == manifest.digest
            )
    except FileNotFoundError:
        return missing
    except (OSError, ManifestError):
        return False


def _write(store: Store, file: Path, manifest: Manifest) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    mode = file.stat().st_mode if file.exists() else None
    start = f".{file.name}.git-gru-"
    for left in file.parent.glob(f"{glob.escape(start)}*"):  # of a pull that was killed
        process = left.name.removeprefix(start)
        if process.isdigit() and not is_running(int(process)):
            left.unlink(missing_ok=True)
    building = file.with_name(f"{start}{os.getpid()}")
    try:
        with building.open("xb") as target:
            for piece in restore(store, manifest):
                target.write(piece)
        if mode is not None:
            building.chmod(stat.S_IMODE(mode))
        building.replace(file)
    finally:
        building.unlink(missing_ok=True)
