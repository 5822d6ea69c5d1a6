"""Which models differ between two states of the repository: what `git gru diff` and the diff driver compare.

Git itself is asked which paths differ, so that revisions, pathspecs and renames mean what they mean to `git
diff`. A blob that is a manifest is a model; so is a file of the worktree that the attributes track, or
whose other side is one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from git_gru.errors import InputError
from git_gru.git.attributes import with_filter
from git_gru.git.comparing import FileVersion, Pair, StoredVersion, Version
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader, UnknownRevisionError, resolve_commit
from git_gru.store.ingest import describe
from git_gru.store.manifest import is_manifest, parse_manifest
from git_gru.store.store import Store


class ComparisonUsageError(InputError):
    """Revisions and paths that make no comparison."""


class VersionReader:
    """Finds the versions behind blob ids and files of one repository."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._models = ModelReader(repo)
        self._store = cache(repo.store)

    def blob(self, blob: str, path: str) -> Version | None:
        """The model in a blob; None when the blob is none, is null (all zeros) or is not in the
        repository.
        """
        if not blob.strip("0"):
            return None
        try:
            manifest = self._models.manifest(blob, path)
        except (KeyError, ValueError):
            return None
        return StoredVersion(manifest, self._store) if manifest else None

    def file(self, file: Path, path: str) -> Version | None:
        """The model in a file, as whole bytes or as a manifest; None for a file that is missing, empty or
        no file.
        """
        if not file.is_file() or file.stat().st_size == 0:
            return None
        return file_version(file, path, self._store)


def file_version(file: Path, path: str, opened: Callable[[], Store]) -> Version:
    """The version in a file that is not empty. `path` is the model's, for messages and for what is expected
    of it.
    """
    with file.open("rb") as source:
        start = source.read(64)
        if is_manifest(start):
            return StoredVersion(parse_manifest(start + source.read(), where=path), opened)
        source.seek(0)
        return FileVersion(describe(source, expect_safetensors=False).manifest, file)


@dataclass(frozen=True)
class _Change:
    """One line of `git diff --raw`; a blob id of zeros is the worktree's file, or none."""

    status: str
    old_blob: str
    new_blob: str
    old_path: str
    new_path: str

    @property
    def in_worktree(self) -> bool:
        return self.status != "D" and not self.new_blob.strip("0")


def pairs(
    repo: Repository,
    words: Sequence[str],
    *,
    staged: bool = False,
    paths: Sequence[str] = (),
    folder: Path | None = None,
) -> list[Pair]:
    """The models that differ between the versions that `words` name, as `git diff` understands them.

    No word: worktree against index (`staged`: index against HEAD); one: worktree (or index) against that
    commit; two, or `A..B`: commits; `A...B`: B against where it left A. A word that is no revision and
    exists as a file is a path, as are `paths`, relative to `folder`. Raises `UnknownRevisionError`,
    `UnbornBranchError` and `ComparisonUsageError`.
    """
    folder = folder or repo.top
    revisions, more = _revisions(repo, words, folder)
    ranged = any(".." in revision for revision in revisions)
    if len(revisions) > (1 if ranged or staged else 2) or (staged and ranged):
        raise ComparisonUsageError(
            f"cannot compare {' '.join(revisions)}{' with --staged' if staged else ''}",
            hint="Name at most two commits, or one range A..B.",
        )
    flags = ["--raw", "-z", "--no-abbrev", "--no-relative", "-M", *(["--cached"] if staged else [])]
    listed = repo.git("diff", *flags, *revisions, "--", *more, *paths, cwd=folder)
    changes = _changes(listed)
    tracked = set(with_filter(repo, [change.new_path for change in changes if change.in_worktree]))
    reader = VersionReader(repo)
    found = []
    for change in changes:
        old = reader.blob(change.old_blob, change.old_path)
        new = reader.blob(change.new_blob, change.new_path)
        if change.in_worktree and (old is not None or change.new_path in tracked):
            new = reader.file(repo.top / change.new_path, change.new_path)
        pair = Pair(path=change.new_path, old_path=change.old_path, old=old, new=new)
        if (old is not None or new is not None) and pair.differs:
            found.append(pair)
    return found


def _revisions(repo: Repository, words: Sequence[str], folder: Path) -> tuple[list[str], list[str]]:
    """Sorts words into revisions (first) and paths. Raises what `resolve_commit` raises for a word that is
    neither.
    """
    revisions: list[str] = []
    for index, word in enumerate(words):
        ends = [end or "HEAD" for end in word.replace("...", "..").split("..")] if ".." in word else [word]
        try:
            for end in ends:
                resolve_commit(repo, end)
        except UnknownRevisionError:
            rest = list(words[index:])
            if all((folder / path).exists() for path in rest):
                return revisions, rest
            raise
        revisions.append(word)
    return revisions, []


def _changes(listed: bytes) -> list[_Change]:
    """Parses `git diff --raw -z --no-abbrev` (git-diff-index(1), "Raw output format"); conflicts are left
    out.
    """
    fields = listed.decode("utf-8", "surrogateescape").split("\0")
    changes = []
    position = 0
    while position < len(fields) and fields[position].startswith(":"):
        _, _, old_blob, new_blob, status = fields[position].split(" ")
        names = fields[position + 1 : position + (3 if status[0] in "RC" else 2)]
        position += 1 + len(names)
        if status[0] != "U":
            changes.append(_Change(status[0], old_blob, new_blob, names[0], names[-1]))
    return changes
