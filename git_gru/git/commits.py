"""Commits made with plumbing: no command here touches the user's worktree, index or checked-out branch.

A ref is moved by compare-and-swap (`update-ref NEW OLD`), so of two writers one wins and the other is told. Objects are
written before the ref that reaches them.
"""

import contextlib
import itertools
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from git_gru.errors import InputError
from git_gru.git.repository import Repository
from git_gru.git.revisions import resolve_commit
from git_gru.git.run import LOCAL_VARIABLES, Environment, GitCommandError, is_running
from git_gru.store.manifest import Manifest

_ABSENT = "0" * 40
_NO_HOOKS = ("-c", f"core.hooksPath={os.devnull}")


class RefMovedError(InputError):
    """A ref is not where it was expected: somebody else has moved it meanwhile."""


class ConflictedIndexError(InputError):
    """The index holds unresolved conflicts."""


def build_commit(
    repo: Repository, *, source_commit: str, path: str, manifest: Manifest, message: str, parent: str
) -> str:
    """A commit of `manifest` at `path`, which no ref names yet; returns its id.

    The tree is that of `source_commit` with only `path` replaced; `parent` is the new commit's parent (for a run's first
    checkpoint the two are the same, later ones follow on the checkpoint before). Author and committer are the user's.
    Raises `InputError` for a path that cannot be, `GitCommandError`.
    """
    return _commit_tree(repo, build_tree(repo, source_commit, path, manifest), message, parent)


def build_tree(repo: Repository, source_commit: str, path: str, manifest: Manifest) -> str:
    """The id of the tree of `source_commit` with only `path` replaced. Raises `InputError` for a path that cannot be."""
    import pygit2

    objects: Any = repo.pygit2
    steps = PurePosixPath(path).parts
    if not steps or path.startswith("/") or any(step in ("..", ".git") for step in steps):
        raise InputError(f"{path or '(nothing)'} is no path inside a repository")
    blob = objects.create_blob(manifest.encode())
    return str(_replaced(objects, objects[pygit2.Oid(hex=source_commit)].tree, steps, blob))


def move_ref(repo: Repository, ref: str, commit: str, expected: str | None, message: str) -> None:
    """Moves `ref` from `expected` (None: it must not exist) to `commit`. Raises `RefMovedError` if it is elsewhere."""
    reason = message.partition("\n")[0]
    try:
        repo.git("update-ref", "--create-reflog", "-m", reason, ref, commit, expected or _ABSENT)
    except GitCommandError as error:
        found = repo.git("rev-parse", "--verify", "--quiet", ref, check=False).decode().strip()
        if found == (expected or ""):
            raise  # it stands where it should: something else is wrong
        raise RefMovedError(
            f"{ref} is at {found[:12] or 'no commit'}, not at {expected[:12] if expected else 'no commit'}: "
            "somebody else has moved it",
            hint=f"The new commit is {commit}; see it with: git show {commit[:12]}",
        ) from error


def free_branch(repo: Repository, name: str) -> str:
    """The first of `name`-2, `name`-3, … that is no branch yet: where commits go when somebody else has moved `name`."""
    names = (f"{name}-{number}" for number in itertools.count(2))
    return next(
        one
        for one in names
        if repo.completed("rev-parse", "--verify", "--quiet", f"refs/heads/{one}").returncode != 0
    )


def snapshot_dirty(repo: Repository, ref: str) -> str:
    """Commits the worktree as it is (staged, unstaged and new files; not ignored ones) onto HEAD; points `ref` at that.

    Works on a copy of the index, so the user's stays as it is. A clean worktree is HEAD itself. Returns the commit's id.
    Raises `ConflictedIndexError` during an unfinished merge, `UnbornBranchError` without a commit.
    """
    repo.require_worktree()
    head = resolve_commit(repo, "HEAD")
    if repo.git("ls-files", "--unmerged", "-z"):
        raise ConflictedIndexError(
            "the worktree has unresolved conflicts", hint="Finish or abort the merge first: git status"
        )
    index = Path(
        os.fsdecode(repo.git("rev-parse", "--path-format=absolute", "--git-path", "index").rstrip(b"\n"))
    )
    copy = repo.git_dir / f"gru-snapshot-{os.getpid()}-{secrets.token_hex(4)}"
    environment = {"GIT_INDEX_FILE": str(copy)}
    try:
        if index.exists():
            # with what Git knows of unchanged files, so that they are not read again
            shutil.copyfile(index, copy)
        repo.git("add", "--all", "--", ".", env=environment)
        tree = repo.git("write-tree", env=environment).decode().strip()
    finally:
        for leftover in (copy, copy.with_name(copy.name + ".lock")):
            leftover.unlink(missing_ok=True)
    commit = head
    if tree != repo.git("rev-parse", f"{head}^{{tree}}").decode().strip():
        commit = _commit_tree(repo, tree, "git-gru: the worktree as it was when the run started", head)
    repo.git("update-ref", ref, commit)
    return commit


@contextlib.contextmanager
def worktree(repo: Repository, commit: str, *, weights: bool = True) -> Iterator[Path]:
    """A temporary worktree of `commit` (detached) under `<common dir>/gru/worktrees/`, removed at the end.

    `weights=False` leaves manifests in place of the models. The repository's hooks do not run. What a killed process left
    behind is removed first.
    """
    folder = repo.gru_dir / "worktrees"
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(repo, folder)
    place = folder / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    environment: Environment = {
        **LOCAL_VARIABLES,
        "GIT_DIR": str(repo.common_dir),
        "GIT_GRU_SKIP_SMUDGE": None if weights else "1",
    }
    try:
        repo.git(*_NO_HOOKS, "worktree", "add", "--quiet", "--detach", str(place), commit, env=environment)
        yield place
    finally:
        _remove(repo, place)


def _commit_tree(repo: Repository, tree: str, message: str, parent: str) -> str:
    text = message if message.endswith("\n") else f"{message}\n"
    return repo.git("commit-tree", tree, "-p", parent, "-F", "-", input=text.encode()).decode().strip()


def _replaced(objects: Any, tree: Any, steps: tuple[str, ...], blob: Any) -> Any:
    """The id of `tree` with `blob` at the path `steps`; folders are made, a file in a folder's place is refused."""
    import pygit2

    builder = objects.TreeBuilder(tree) if tree is not None else objects.TreeBuilder()
    name, rest = steps[0], steps[1:]
    present = tree[name] if tree is not None and name in tree else None
    if not rest:
        if present is not None and present.type_str == "tree":
            raise InputError(f"{name} is a folder in that commit, a model cannot take its place")
        builder.insert(name, blob, pygit2.enums.FileMode.BLOB if present is None else present.filemode)
        return builder.write()
    if present is not None and present.type_str != "tree":
        raise InputError(f"{name} is a file in that commit, not a folder")
    builder.insert(name, _replaced(objects, present, rest, blob), pygit2.enums.FileMode.TREE)
    return builder.write()


def _remove(repo: Repository, place: Path) -> None:
    repo.git("worktree", "remove", "--force", "--force", str(place), check=False)
    if place.exists():
        shutil.rmtree(place, ignore_errors=True)
        repo.git("worktree", "prune", check=False)


def _sweep(repo: Repository, folder: Path) -> None:
    """Removes the worktrees of this machine's processes that no longer run."""
    mine = f"{socket.gethostname()}-"
    for place in folder.iterdir():
        if not place.name.startswith(mine):
            continue
        process = place.name.removeprefix(mine).partition("-")[0]
        if process.isdigit() and not is_running(int(process)):
            _remove(repo, place)
