"""The worktree around a migration: what must be so before the branches move, and bringing it along afterwards.

A clean worktree holds the same files before and after: only Git's names for them change. So files are not checked out again.
The index gets the new names, Git looks once whether the files fit them, and only those that do not (attributes files, pointers
and manifests that stood in a file's place) are written: models in pieces, whatever their size.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from git_gru.errors import InputError
from git_gru.git.attributes import paths
from git_gru.git.migrate.objects import EMPTY_BLOB
from git_gru.git.migrate.refs import Move, ids, kept
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader
from git_gru.git.state import DirtyWorktreeError, in_progress, require_idle
from git_gru.store.manifest import Manifest
from git_gru.store.restore import restore
from git_gru.store.store import Store


class ShallowError(InputError):
    """The repository does not have the whole history."""


class OtherWorktreeError(InputError):
    """Another worktree stands in the way."""


def require_ready(repo: Repository) -> None:
    """Raises an `InputError` where a history cannot be rewritten now: shallow, of an unknown format, in the middle of
    something, changed files. Finishes what a migration that was interrupted left undone in the worktree.
    """
    facts = repo.git("rev-parse", "--is-shallow-repository", "--show-object-format").decode().split()
    if facts[0] == "true":
        raise ShallowError(
            "this clone is shallow: commits whose parents it lacks cannot be rewritten",
            hint="Bring the rest of the history: git fetch --unshallow",
        )
    if facts[1] != "sha1":
        raise InputError(
            f"this repository names its objects by {facts[1]}; migrating such a history is not supported",
            hint="Track the files from here on instead: git gru track PATTERN, git add --renormalize .",
        )
    if repo.worktree is None:
        return
    require_idle(repo)
    if _dirty(repo) and not (_finish_interrupted(repo) and not _dirty(repo)):
        raise DirtyWorktreeError(
            f"the worktree has uncommitted changes: {', '.join(_dirty(repo)[:5])}",
            hint="Commit them, or put them aside: git stash. To throw them away: git reset --hard",
        )
    if (
        not repo.git("ls-files", "--", ":(top,literal).gitattributes")
        and (repo.worktree / ".gitattributes").exists()
    ):
        raise DirtyWorktreeError(
            "the worktree has a .gitattributes that Git does not know, where the rewritten history may have one",
            hint="Commit it or move it away first.",
        )


def require_free(repo: Repository, moves: Sequence[Move]) -> None:
    """Raises `OtherWorktreeError` when another worktree has a branch checked out that would move, or is in the middle of
    something.
    """
    branches = {move.ref for move in moves}
    listed = repo.git("worktree", "list", "--porcelain", "-z").decode("utf-8", "surrogateescape")
    for entry in listed.split("\0\0"):
        facts = dict(line.partition(" ")[::2] for line in entry.strip("\0").split("\0"))
        place = Path(facts.get("worktree", ""))
        if "bare" in facts or "prunable" in facts or not entry.strip("\0") or place == repo.worktree:
            continue
        if facts.get("branch") in branches:
            raise OtherWorktreeError(
                f"the worktree {place} has {facts['branch'].removeprefix('refs/heads/')} checked out, which would be rewritten",
                hint=f"Leave it first: git -C {place} switch --detach",
            )
        if (name := in_progress(Repository.find(place))) is not None:
            raise OtherWorktreeError(
                f"in the worktree {place} a {name} is not finished", hint="Finish it or give it up there."
            )


def head_branch(repo: Repository) -> str | None:
    """The full name of the branch that is checked out."""
    return (
        repo.git("symbolic-ref", "--quiet", "HEAD", check=False).decode("utf-8", "surrogateescape").strip()
        or None
    )


def follow(repo: Repository, moves: Sequence[Move]) -> None:
    """Brings the index and the worktree along when the branch that is checked out was moved."""
    branch = head_branch(repo)
    here = next((move for move in moves if move.ref == branch), None)
    if repo.worktree is not None and here is not None:
        _refresh(repo, repo.worktree, here)


class _Changed(NamedTuple):
    """What a path is now: its blob (None where it has gone) and whether it is executable."""

    blob: str | None
    executable: bool


def _refresh(repo: Repository, top: Path, move: Move) -> None:
    changed = _changed(repo, move)
    reader = ModelReader(repo, skip_unreadable=True)
    models = {
        path: manifest
        for path, now in changed.items()
        if now.blob is not None and (manifest := reader.manifest(now.blob, path)) is not None
    }
    repo.git("read-tree", "-i", "-m", move.old, move.new)
    for path, now in changed.items():
        if now.blob is None:
            (top / path).unlink(missing_ok=True)
    # Attributes first: by them Git knows what the other files are. And what is empty now was a pointer, perhaps.
    first = [p for p in changed if Path(p).name == ".gitattributes" or changed[p].blob == EMPTY_BLOB.hex()]
    _check_out(repo, [path for path in first if changed[path].blob is not None])
    with contextlib.closing(repo.store()) as store:

        def write(path: str) -> None:
            _write(store, top / path, models[path], executable=changed[path].executable)

        for path, manifest in models.items():
            if _size(top / path) not in (None, manifest.size):
                write(path)  # in place of a pointer, which the filter shall not take for a model
        unfit = _unfit(repo)
        for path in unfit:
            if path in models:
                write(path)
    _check_out(repo, [path for path in unfit if path in changed and path not in models])
    _unfit(repo)


def _changed(repo: Repository, move: Move) -> dict[str, _Changed]:
    """The paths that are not the same in both commits."""
    listed = repo.git("diff-tree", "-r", "-z", "--no-renames", move.old, move.new)
    parts = listed.decode("utf-8", "surrogateescape").split("\0")
    found = {}
    for meta, path in zip(parts[0::2], parts[1::2], strict=False):
        _, mode, _, blob, letter = meta.split(" ")
        found[path] = _Changed(None if letter == "D" else blob, mode == "100755")
    return found


def _unfit(repo: Repository) -> list[str]:
    """The paths whose files are not what the index says, after Git has looked at each that it is not sure of."""
    repo.completed("update-index", "-q", "--refresh")
    return paths(repo.git("diff-files", "--name-only", "-z", "--ignore-submodules=all"))


def _check_out(repo: Repository, wanted: Sequence[str]) -> None:
    """Has Git write these files (but those that a sparse checkout leaves out)."""
    feed = b"".join(path.encode("utf-8", "surrogateescape") + b"\0" for path in wanted)
    if feed:
        repo.git("checkout-index", "--force", "--quiet", "--index", "-z", "--stdin", input=feed)


def _write(store: Store, file: Path, manifest: Manifest, *, executable: bool) -> None:
    """Writes a model's file in pieces, and puts it into the place of what stood there when it is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    building = file.with_name(f".{file.name[:100]}.{os.urandom(4).hex()}")
    try:
        with open(
            os.open(building, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o777 if executable else 0o666), "wb"
        ) as out:
            for piece in restore(store, manifest):
                out.write(piece)
        building.replace(file)
    finally:
        building.unlink(missing_ok=True)


def _size(file: Path) -> int | None:
    try:
        return file.lstat().st_size
    except OSError:
        return None


def _dirty(repo: Repository) -> list[str]:
    """The tracked paths with changes that are not committed."""
    listed = repo.git(
        "status", "--porcelain", "-z", "--no-renames", "--untracked-files=no", "--ignore-submodules=all"
    )
    return [entry[3:] for entry in paths(listed)]


def _finish_interrupted(repo: Repository) -> bool:
    """Whether the last migration had moved the checked-out branch and was ended before the index followed; if so, it follows now.

    Only where the files are still those of the old commit: nobody's changes are in danger.
    """
    branch, last = head_branch(repo), ids(repo)[-1:]
    here = next((move for id in last for move in kept(repo, id) if move.ref == branch), None)
    if here is None or repo.git("rev-parse", "HEAD").decode().strip() != here.new:
        return False
    index = repo.completed("write-tree").stdout.strip()
    if index != repo.git("rev-parse", f"{here.old}^{{tree}}").strip() or _unfit(repo):
        return False
    follow(repo, [here])
    return True
