"""`git gru merge` with one branch: Git merges, calling the merge driver, and the commit says in trailers
what was done.

The merge itself is `git merge --no-ff --no-commit`, so that conflicts, hooks and `git merge --abort` are
Git's own. What became of each model is worked out afterwards from the manifests of base, ours and theirs:
also for models that Git merged without calling the driver. With several branches, see `octopus`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from git_gru.errors import InputError
from git_gru.git.drivers import rules_environment
from git_gru.git.merging import Counts, Rules, decisions
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader, resolve_commit
from git_gru.git.state import driver_sentences, refused, require_idle, unmerged
from git_gru.store.manifest import Manifest

ABSENT = Manifest(0, None)
"""Stands for a model that a commit does not have, where tensors are counted."""


class Outcome(StrEnum):
    """How a merge ended."""

    UP_TO_DATE = "up-to-date"
    FAST_FORWARD = "fast-forward"
    MERGED = "merged"
    STAGED = "staged"
    CONFLICT = "conflict"


class UnrelatedError(InputError):
    """The branches have no common commit."""


@dataclass(frozen=True, kw_only=True)
class MergedModel:
    """What became of a model that the sides did not agree on. `whole` says it where it is no safetensors
    file.
    """

    path: str
    counts: Counts
    whole: str | None = None


@dataclass(frozen=True, kw_only=True)
class BranchMerge:
    """A merge of branches into HEAD. `commit` is the new HEAD (None where nothing was committed),
    `conflicts` are paths, `sentences` what the driver said about them.
    """

    outcome: Outcome
    branches: tuple[str, ...]
    base: str
    rules: Rules
    commit: str | None = None
    models: tuple[MergedModel, ...] = ()
    conflicts: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()

    @property
    def counts(self) -> Counts:
        """The sum over all models."""
        return sum((model.counts for model in self.models), Counts())


def merge_branch(
    repo: Repository,
    branch: str,
    rules: Rules,
    *,
    fast_forward: bool = True,
    commit: bool = True,
    message: str | None = None,
) -> BranchMerge:
    """Merges `branch` into HEAD; `rules` has HEAD's weight and label first, then the branch's.

    Raises `OperationInProgressError`, `DirtyWorktreeError`, `UnrelatedError` and what `resolve_commit`
    raises; nothing has changed then. A conflict is an outcome: Git's merge is then under way, to be
    finished or aborted as ever.
    """
    require_idle(repo)
    ours, theirs = resolve_commit(repo, "HEAD"), resolve_commit(repo, branch)
    base = merge_base(repo, [ours, theirs])
    if base == theirs:
        return BranchMerge(
            outcome=Outcome.UP_TO_DATE, branches=(branch,), base=base, rules=rules, commit=ours
        )
    models = merged_models(repo, base, [ours, theirs], rules)
    if base == ours and fast_forward and commit:
        done = repo.completed("merge", "--ff-only", branch)
        if done.returncode:
            raise refused("merge", done)
        return BranchMerge(
            outcome=Outcome.FAST_FORWARD,
            branches=(branch,),
            base=base,
            rules=rules,
            commit=theirs,
            models=models,
        )
    words = ["-m", message] if message is not None else []
    done = repo.completed("merge", "--no-ff", "--no-commit", *words, branch, env=rules_environment(rules))
    under_way = (repo.git_dir / "MERGE_HEAD").exists()
    if not under_way:
        raise refused("merge", done)
    result = BranchMerge(
        outcome=Outcome.CONFLICT if done.returncode else Outcome.STAGED,
        branches=(branch,),
        base=base,
        rules=rules,
        models=models,
        conflicts=tuple(unmerged(repo)),
        sentences=tuple(driver_sentences(done.stderr)),
    )
    _add_trailers(repo, result)
    if result.outcome is Outcome.CONFLICT or not commit:
        return result
    repo.git("commit", "--no-edit", "--quiet")
    return BranchMerge(
        outcome=Outcome.MERGED,
        branches=(branch,),
        base=base,
        rules=rules,
        commit=resolve_commit(repo, "HEAD"),
        models=models,
        sentences=result.sentences,
    )


def merge_base(repo: Repository, commits: Sequence[str]) -> str:
    """The best commit that all of these grew from. Raises `UnrelatedError`."""
    found = repo.completed("merge-base", "--octopus", *commits).stdout.decode().split()
    if not found:
        raise UnrelatedError(
            "the branches have no common commit",
            hint="Merge them once with: git merge --allow-unrelated-histories",
        )
    return found[0]


def merged_models(repo: Repository, base: str, sides: Sequence[str], rules: Rules) -> tuple[MergedModel, ...]:
    """What the three-way rules make of each model that is not the same in all of these commits."""
    reader = ModelReader(repo)
    before = reader.models(base)
    versions = [reader.models(side) for side in sides]
    found = []
    for path in sorted({path for models in versions for path in models}):
        present = [models.get(path, ABSENT) for models in versions]
        old = before.get(path)
        if all(side == present[0] for side in present):
            continue
        made = decisions(old, present, rules.labels)
        counts = Counts.of(made.values(), len(sides), rules.strategy)
        whole = None
        added = old is None and len({side.digest for side in present if side != ABSENT}) > 1
        if added:
            whole, counts = "whole file, added on several sides", Counts(conflicts=1)
        elif any(version.is_raw for version in (*present, *([old] if old else []))):
            changed = [index for index, side in enumerate(present) if side != (old or ABSENT)]
            one = len(changed) == 1
            whole = (
                f"whole file from {rules.labels[changed[0]]}"
                if one
                else "whole file, changed on several sides"
            )
            counts = Counts(conflicts=0 if one else 1)
        found.append(MergedModel(path=path, counts=counts, whole=whole))
    return tuple(found)


def trailers(result: BranchMerge) -> list[str]:
    """What a merge commit's message says of the merge: strategy, weights, base, counts."""
    counts = result.counts
    taken = zip(counts.taken, result.rules.labels, strict=False)
    told = [f"{count} from {label}" for count, label in taken if count]
    told += [
        f"{count} {what}"
        for count, what in (
            (counts.combined, result.rules.strategy.verb),
            (counts.averaged, "averaged without base"),
            (counts.counted, "counted"),
            (counts.deleted, "deleted"),
            (counts.unchanged, "unchanged"),
        )
        if count
    ]
    if not result.models:
        return []
    return [
        f"Gru-Merge-Strategy: {result.rules.strategy.name}",
        f"Gru-Merge-Weights: {', '.join(f'{weight:.6g}' for weight in result.rules.weights)}",
        f"Gru-Merge-Base: {result.base}",
        f"Gru-Merge-Tensors: {', '.join(told) or 'none'}",
    ]


def with_trailers(repo: Repository, message: str, result: BranchMerge) -> str:
    """The message with the trailers where Git wants them."""
    arguments = [word for trailer in trailers(result) for word in ("--trailer", trailer)]
    if not arguments:
        return message
    return repo.git("interpret-trailers", *arguments, input=message.encode()).decode()


def _add_trailers(repo: Repository, result: BranchMerge) -> None:
    """Into the message that Git has prepared, so that a commit after resolving conflicts carries them too."""
    file = repo.git_dir / "MERGE_MSG"
    text = file.read_bytes().decode("utf-8", "surrogateescape")
    file.write_bytes(with_trailers(repo, text, result).encode("utf-8", "surrogateescape"))
