"""What a repository's working files name beside its references and reflogs: indexes, and operations under way.

A *Git folder* is the common one or that of a linked worktree. In each of them

- every file that begins as an index does is one: `index`, `index.lock`, `next-index-PID.lock` (of a `git commit -o`),
  `index.stash.PID`;
- merges, rebases, cherry-picks and the like keep what they need in files of their own: `MERGE_HEAD`, `ORIG_HEAD`, `AUTO_MERGE`,
  `FETCH_HEAD`, `rebase-merge/`, `rebase-apply/`, `sequencer/`, and in references of the worktree alone. Every word in them that
  may be an object's name counts.
"""

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from git_gru.errors import InputError
from git_gru.git.repository import Repository
from git_gru.git.run import LOCAL_VARIABLES, completed

_INDEX = b"DIRC"
_STATE_FILE = re.compile(r"[A-Z_]+\Z")
_STATE_FOLDERS = ("rebase-merge", "rebase-apply", "sequencer")
_INDEX_LOCK = re.compile(r"(index|next-index|gru-snapshot).*\.lock\Z")
_NAME = re.compile(rb"(?<![0-9a-f])[0-9a-f]{7,64}(?![0-9a-f])")
_LONGEST = 1 << 24
"""Bytes of a state file that are looked at."""

_TRIES, _PAUSE = 20, 0.1
_LONGEST_ADD = 86_400.0
"""Seconds after which a lock is taken for one that a dead process left."""


class UnreadableIndexError(InputError):
    """An index that Git cannot read."""


def git_folders(repo: Repository) -> list[Path]:
    """The common Git folder, and those of the linked worktrees."""
    linked = repo.common_dir / "worktrees"
    return [repo.common_dir, *(sorted(linked.iterdir()) if linked.is_dir() else ())]


def index_blobs(repo: Repository) -> set[str]:
    """The ids of all blobs that any index names, at any stage. Raises `UnreadableIndexError`."""
    found: set[str] = set()
    for folder in git_folders(repo):
        for file in sorted(folder.iterdir()):
            if _begins_as_index(file):
                found |= _listed(folder, file)
    return found


def state_words(repo: Repository) -> set[str]:
    """The words in the files of operations under way that may name objects, in full or cut short."""
    words: set[str] = set()
    for folder in git_folders(repo):
        for file in _state_files(folder, linked=folder != repo.common_dir):
            try:
                with file.open("rb") as content:
                    words.update(word.decode() for word in _NAME.findall(content.read(_LONGEST)))
            except (FileNotFoundError, IsADirectoryError):
                continue
    return words


def adding_since(repo: Repository) -> float | None:
    """When the oldest git command began that may be adding files now, in seconds since 1970; None where there is none."""
    began = []
    for folder in git_folders(repo):
        began += [_changed(file) for file in folder.iterdir() if _INDEX_LOCK.match(file.name)]
    # With core.fsyncMethod=batch, Git puts what it adds into a folder aside, and in its place at the end.
    aside = (repo.common_dir / "objects").glob("tmp_objdir-bulk-fsync-*")
    began += [0.0 for folder in aside if _changed(folder) is not None]
    return min((when for when in began if when is not None), default=None)


def _changed(path: Path) -> float | None:
    try:
        when = path.stat().st_mtime
    except FileNotFoundError:
        return None
    # some file systems count in steps of two seconds
    return None if time.time() - when > _LONGEST_ADD else when - 2


def _begins_as_index(file: Path) -> bool:
    try:
        if not file.is_file():
            return False
        with file.open("rb") as content:
            return content.read(len(_INDEX)) == _INDEX
    except FileNotFoundError:
        return False


def _listed(folder: Path, index: Path) -> set[str]:
    """The blobs of one index; none where it is gone meanwhile."""
    environment = {**LOCAL_VARIABLES, "GIT_DIR": str(folder), "GIT_INDEX_FILE": str(index)}
    for _ in range(_TRIES):
        try:
            if _whole(index):
                listed = completed("ls-files", "--stage", "-z", cwd=folder, env=environment)
                undo = completed("ls-files", "--resolve-undo", "-z", cwd=folder, env=environment)
                if listed.returncode == 0 and undo.returncode == 0 and index.exists():
                    entries = (listed.stdout + undo.stdout).split(b"\0")
                    fields = (entry.split(b" ", 2) for entry in entries if entry)
                    return {words[1].decode() for words in fields if words[0] != b"160000"}
        except FileNotFoundError:
            return set()
        time.sleep(_PAUSE)
    raise UnreadableIndexError(
        f"the index {index} cannot be read: nothing is dropped while it may name models",
        hint="If no git command is running there, delete that file when its name ends in .lock; otherwise see git fsck.",
    )


def _whole(index: Path) -> bool:
    """Whether an index has the checksum at its end (or none: `index.skipHash`). Git does not look, and reads half a lock."""
    data = index.read_bytes()
    return data[-20:] in (hashlib.sha1(data[:-20], usedforsecurity=False).digest(), bytes(20))


def _state_files(folder: Path, *, linked: bool) -> Iterator[Path]:
    yield from (file for file in folder.iterdir() if _STATE_FILE.match(file.name) and file.is_file())
    for name in (*_STATE_FOLDERS, *(("refs",) if linked else ())):
        yield from (file for file in (folder / name).rglob("*") if file.is_file())
