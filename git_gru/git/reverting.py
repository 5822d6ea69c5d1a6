"""`git gru revert` and `git gru cherry-pick`: Git's own, one commit at a time, and then a look at what came
of each model.

Reverting C takes its weight change out of where the branch stands now: result = H + (P − C), P being C's
parent. A tensor that nobody changed since C gets its parent's exact bits back. Where later commits changed
it as well, their changes stay and the result is one rounding of the dtype away from the exact sum;
`ModelEffect` says for how many elements.

Where a merge averaged the line of C with another, the branch holds only a part of C's change, and taking all of
it out overshoots: that is told (`_overshooting`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import Literal

from git_gru.errors import GruError, InputError
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader, resolve_commit
from git_gru.git.state import driver_sentences, in_progress, refused, require_idle, unmerged
from git_gru.store.manifest import Manifest, TensorEntry
from git_gru.store.store import Store
from git_gru.tensors.arrays import layout_of
from git_gru.tensors.residual import Exactness, exactness

Verb = Literal["revert", "cherry-pick"]

_EMPTY = (b"nothing to commit", b"nothing added to commit", b"no changes added to commit", b"is now empty")
"""What git says (in English: see `run`) when a commit would change nothing."""


class MergeCommitError(InputError):
    """A merge commit has several parents, so its change depends on which one counts."""


class NoEffectError(InputError):
    """The change is not there to be taken out, or is there already."""


class ApplyConflictError(GruError):
    """Git stopped at a conflict; the operation is under way."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True)
class ModelEffect:
    """What became of one model, in tensors that the commit had changed: `exact` now have the target's bits,
    `mixed` keep later changes beside it (`exactness` counts their elements), `other` were added, removed,
    counters or of integers.
    """

    path: str
    exact: int
    mixed: int
    other: int
    exactness: Exactness

    @property
    def is_exact(self) -> bool:
        """Whether the model's concerned tensors are, bit for bit, what was asked for."""
        return self.mixed == 0 and self.other == 0


@dataclass(frozen=True, kw_only=True)
class Applied:
    """One commit that was reverted or picked, and the commit that did it."""

    source: str
    commit: str
    subject: str
    models: tuple[ModelEffect, ...]
    sentences: tuple[str, ...]


def expand(repo: Repository, verb: Verb, words: Sequence[str]) -> list[str]:
    """The commits that `words` (commits, or ranges A..B) name, in the order in which Git would take them."""
    commits: list[str] = []
    for word in words:
        if ".." in word and not word.startswith("-"):
            start, _, end = word.partition("..")
            span = f"{resolve_commit(repo, start or 'HEAD')}..{resolve_commit(repo, end or 'HEAD')}"
            order = ["--reverse"] if verb == "cherry-pick" else []
            commits += repo.git("rev-list", *order, span).decode().split()
        else:
            commits.append(resolve_commit(repo, word))
    return commits


def apply_commit(repo: Repository, verb: Verb, commit: str, *, mainline: int | None = None) -> Applied:
    """Reverts or picks one commit (a full id) and reports. `mainline` is the parent that counts, from 1, of
    a merge.

    Raises `MergeCommitError`, `NoEffectError`, `ApplyConflictError`, `DirtyWorktreeError`,
    `OperationInProgressError`.
    """
    require_idle(repo)
    parent = _parent(repo, verb, commit, mainline)
    head = resolve_commit(repo, "HEAD")
    choice = ["-m", str(mainline)] if mainline is not None else []
    edit = ["--no-edit"] if verb == "revert" else []
    done = repo.completed(verb, *edit, *choice, commit)
    if done.returncode:
        raise _failure(repo, verb, commit, done) or refused(verb, done)
    result = resolve_commit(repo, "HEAD")
    reader = ModelReader(repo)
    before = reader.models(parent) if parent else {}
    after = reader.models(commit)
    old, new = (after, before) if verb == "revert" else (before, after)
    ours, now = reader.models(head), reader.models(result)
    paths = [path for path in sorted({*old, *new}) if old.get(path) != new.get(path)]
    overshooting = _overshooting(repo, reader, commit, head, paths) if verb == "revert" else []
    effects = [
        _effect(repo.store(), path, old.get(path), ours.get(path), new.get(path), now.get(path))
        for path in paths
    ]
    return Applied(
        source=commit,
        commit=result,
        subject=repo.git("log", "-1", "--format=%s", commit).decode("utf-8", "replace").strip(),
        models=tuple(effects),
        sentences=(*driver_sentences(done.stderr), *overshooting),
    )


def _overshooting(
    repo: Repository, reader: ModelReader, commit: str, head: str, paths: Sequence[str]
) -> list[str]:
    """A sentence for each model of which a merge between `commit` and `head` averaged a line without the commit in."""
    listed = repo.git("rev-list", "--merges", "--parents", "--ancestry-path", f"{commit}..{head}").decode()
    found = []
    for merge, *parents in map(str.split, listed.splitlines()):
        if all(_reaches(repo, commit, parent) for parent in parents):
            continue  # it came before the branches parted: both have all of it
        merged, sides = reader.models(merge), [reader.models(parent) for parent in parents]
        found += [
            f"{path}: the merge {merge[:10]} averaged it and so took in only a part of this commit's change; all of the change "
            f"is taken out now, which overshoots. To undo the merge instead: git gru revert -m 1 {merge[:10]}"
            for path in paths
            if path in merged and all(merged[path] != side.get(path) for side in sides)
        ]
    return found


def _reaches(repo: Repository, commit: str, tip: str) -> bool:
    return repo.completed("merge-base", "--is-ancestor", commit, tip).returncode == 0


def _parent(repo: Repository, verb: Verb, commit: str, mainline: int | None) -> str | None:
    parents = repo.git("log", "-1", "--format=%P", commit).decode().split()
    if len(parents) > 1 and mainline is None:
        raise MergeCommitError(
            f"{commit[:12]} is a merge of {len(parents)} parents",
            hint=f"Say which parent's line is kept: git gru {verb} -m 1 {commit[:12]}",
        )
    if mainline is None:
        return parents[0] if parents else None
    if len(parents) < 2 or not 1 <= mainline <= len(parents):
        raise MergeCommitError(
            f"{commit[:12]} has no parent number {mainline} to choose: it has {len(parents)}",
            hint="Leave -m out for a commit that is no merge." if len(parents) < 2 else None,
        )
    return parents[mainline - 1]


def _failure(repo: Repository, verb: Verb, commit: str, done: CompletedProcess[bytes]) -> GruError | None:
    """Why git stopped after it had begun; None where it refused to begin."""
    conflicts = unmerged(repo)
    if conflicts:
        told = "".join(f"\n  {sentence}" for sentence in driver_sentences(done.stderr))
        return ApplyConflictError(
            f"conflicts in {', '.join(conflicts)} while doing the {verb} of {commit[:12]}{told}",
            hint=f"Resolve them, git add them, then: git {verb} --continue; or give up: git {verb} --abort",
        )
    empty = any(words in done.stdout + done.stderr for words in _EMPTY)
    if empty and repo.completed("diff", "--cached", "--quiet").returncode == 0:
        if in_progress(repo) == verb:
            repo.completed(verb, "--skip")
        there = "is not here any more" if verb == "revert" else "is here already"
        return NoEffectError(f"the change of {commit[:12]} {there}: there is nothing to commit")
    return None


def _effect(
    store: Store,
    path: str,
    base: Manifest | None,
    ours: Manifest | None,
    theirs: Manifest | None,
    result: Manifest | None,
) -> ModelEffect:
    """Compares what was asked for, ours + (theirs − base), with what came out."""
    versions = [version.tensors if version else {} for version in (base, ours, theirs, result)]
    old, _, wanted, now = versions
    exact = mixed = other = 0
    total = Exactness()
    for name in dict.fromkeys((*wanted, *old)):
        if old.get(name) == wanted.get(name):
            continue
        entries = [version.get(name) for version in versions]
        if now.get(name) == wanted.get(name):
            exact += 1
        elif (measured := _measure(store, entries)) is not None:
            mixed += 1
            total += measured
        else:
            other += 1
    if any(version and version.is_raw for version in (base, ours, theirs, result)):
        exact, other = (1, 0) if result == theirs else (0, 1)
    return ModelEffect(path=path, exact=exact, mixed=mixed, other=other, exactness=total)


def _measure(store: Store, entries: Sequence[TensorEntry | None]) -> Exactness | None:
    """The elements of a float tensor of one shape on all sides; None for any other."""
    present = [entry for entry in entries if entry is not None]
    forms = {(entry.dtype, entry.shape) for entry in present}
    if len(present) != len(entries) or len(forms) != 1 or layout_of(present[0].dtype).kind != "float":
        return None
    total = Exactness()
    for ids in zip(*(entry.chunks for entry in present), strict=True):
        pieces = {id: store.chunk(id) for id in set(ids)}
        base, ours, theirs, result = (pieces[id] for id in ids)
        total += exactness(present[0].dtype, base=base, ours=ours, theirs=theirs, result=result)
    return total
