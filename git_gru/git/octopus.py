"""`git gru merge` with several branches: one commit with all of them as parents, models by the weighted
mean of all sides.

Git's own octopus never calls a merge driver, so:

1. everything but models is merged branch after branch by `git merge-tree`, the driver for models replaced
by one that keeps ours; 2. each model is merged once, over all sides, from the common base (three-way rules
of `tensors.threeway`); 3. tree and commit are written, and `git merge --ff-only` brings worktree and index
there, or refuses.

Any conflict stops before the third step: nothing has changed then but for unreachable objects.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from git_gru.errors import GruError
from git_gru.git.branches import (
    BranchMerge,
    MergedModel,
    Outcome,
    merge_base,
    merge_branch,
    merged_models,
    with_trailers,
)
from git_gru.git.merging import Rules, merge_models
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader, resolve_commit
from git_gru.git.state import refused, require_idle
from git_gru.store.manifest import Manifest
from git_gru.tensors.combine import normalised

_KEEP_OURS = ("-c", "merge.gru.driver=true")
_NULL = "0" * 40


class OctopusConflictError(GruError):
    """Several branches cannot be merged at once: the sentence names what is in conflict."""

    exit_code = 1


@dataclass(frozen=True)
class _Entry:
    """What the merged tree has at a model's path: the mode of its file, and its manifest (None: nothing)."""

    path: str
    manifest: Manifest | None


def merge_into_head(
    repo: Repository,
    branches: Sequence[str],
    rules: Rules,
    *,
    fast_forward: bool = True,
    commit: bool = True,
    message: str | None = None,
) -> BranchMerge:
    """Merges branches into HEAD: one as Git does, several at once. `rules` has a weight and a label for
    HEAD and each.

    Branches that HEAD contains already, and those named twice, do not count. Raises what `merge_branch` and
    `merge_branches` raise.
    """
    require_idle(repo)
    head = resolve_commit(repo, "HEAD")
    new: dict[str, int] = {}
    for index, branch in enumerate(branches, start=1):
        side = resolve_commit(repo, branch)
        if repo.completed("merge-base", "--is-ancestor", side, head).returncode != 0:
            new.setdefault(side, index)
    kept = list(new.values()) or [1]
    rules = _rules_for(rules, [0, *kept])
    names = [branches[index - 1] for index in kept]
    if len(names) == 1:
        return merge_branch(repo, names[0], rules, fast_forward=fast_forward, commit=commit, message=message)
    return merge_branches(repo, names, rules, commit=commit, message=message)


def merge_branches(
    repo: Repository,
    branches: Sequence[str],
    rules: Rules,
    *,
    commit: bool = True,
    message: str | None = None,
) -> BranchMerge:
    """Merges several branches into HEAD at once; `rules` has a weight and a label for HEAD and for each
    branch.

    Raises `OctopusConflictError`, `OperationInProgressError`, `DirtyWorktreeError`, `UnrelatedError` and what
    `resolve_commit` raises; nothing has changed then.
    """
    require_idle(repo)
    sides = [resolve_commit(repo, name) for name in ("HEAD", *branches)]
    base = merge_base(repo, sides)
    tree = _merge_other_files(repo, sides, branches)
    entries, sentences, conflicts = _merge_models(repo, base, sides, rules)
    if conflicts:
        raise OctopusConflictError(
            f"cannot merge {_listed(branches)} at once: {'; '.join(conflicts)}",
            hint="Merge them one after the other: git gru merge BRANCH",
        )
    result = BranchMerge(
        outcome=Outcome.MERGED,
        branches=tuple(branches),
        base=base,
        rules=rules,
        models=_only_changed(merged_models(repo, base, sides, rules)),
        sentences=tuple(sentences),
    )
    tree = _with_models(repo, tree, entries)
    text = with_trailers(repo, message or f"Merge branches {_listed(branches)}\n", result)
    if not commit:
        _stage(repo, tree, sides[1:], text)
        return replace(result, outcome=Outcome.STAGED)
    parents = [word for side in dict.fromkeys(sides) for word in ("-p", side)]
    made = repo.git("commit-tree", tree, *parents, input=text.encode()).decode().strip()
    done = repo.completed("merge", "--ff-only", "--quiet", made)
    if done.returncode:
        raise refused("merge", done)
    return replace(result, commit=made)


def _only_changed(models: tuple[MergedModel, ...]) -> tuple[MergedModel, ...]:
    return tuple(model for model in models if not model.counts.conflicts)


def _merge_other_files(repo: Repository, sides: Sequence[str], branches: Sequence[str]) -> str:
    """The tree of all sides merged one after the other, models left aside. Raises `OctopusConflictError`."""
    current = sides[0]
    models = {path for side in sides for path in ModelReader(repo).models(side)}
    tree = repo.git("rev-parse", f"{current}^{{tree}}").decode().strip()
    for branch, side in zip(branches, sides[1:], strict=True):
        done = repo.completed(
            *_KEEP_OURS, "merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", current, side
        )
        if done.returncode > 1 or not done.stdout:
            raise refused("merge-tree", done)
        tree, *names = [name for name in done.stdout.decode("utf-8", "surrogateescape").split("\0") if name]
        conflicts = [name for name in dict.fromkeys(names) if name not in models] if done.returncode else []
        if conflicts:
            raise OctopusConflictError(
                f"cannot merge {_listed(branches)} at once: conflicts with {branch} in {', '.join(conflicts)}",
                hint="Merge them one after the other: git gru merge BRANCH",
            )
        current = (
            repo.git("commit-tree", tree, "-p", current, "-p", side, input=b"on the way\n").decode().strip()
        )
    return tree


def _merge_models(
    repo: Repository, base: str, sides: Sequence[str], rules: Rules
) -> tuple[list[_Entry], list[str], list[str]]:
    """Each model over all sides: what the tree is to have, what there is to say, and what is in conflict."""
    reader = ModelReader(repo)
    before, versions = reader.models(base), [reader.models(side) for side in sides]
    entries: list[_Entry] = []
    sentences: list[str] = []
    conflicts: list[str] = []
    for path in sorted({path for models in (before, *versions) for path in models}):
        old = before.get(path)
        found = [models.get(path) for models in versions]
        changed = [index for index, side in enumerate(found) if side != old]
        plain = [
            rules.labels[i] for i, side in enumerate(found) if side is None and _exists(repo, sides[i], path)
        ]
        if plain:
            conflicts.append(f"{path}: {' and '.join(plain)} have a plain file there, others a model")
            continue
        gone = [index for index in changed if found[index] is None]
        if gone:
            others = [rules.labels[index] for index in changed if found[index] is not None]
            if others:
                lost = " and ".join(rules.labels[index] for index in gone)
                conflicts.append(f"{path}: deleted by {lost} and changed by {' and '.join(others)}")
            entries.append(_Entry(path, None))
            continue
        having = [(index, side) for index, side in enumerate(found) if side is not None]
        if not having:
            continue
        merged = merge_models(
            repo.store(), old, [side for _, side in having], _rules_for(rules, [i for i, _ in having])
        )
        conflicts += [f"{path}: {conflict}" for conflict in merged.conflicts]
        if merged.disputed:
            sentences.append(
                f"{path}: __metadata__ differs in {', '.join(merged.disputed)}; the first side's was kept"
            )
        if merged.tally.overflowed:
            sentences.append(
                f"{path}: {merged.tally.overflowed} elements became NaN or Inf though all sides are finite"
            )
        entries.append(_Entry(path, merged.manifest))
    return entries, sentences, conflicts


def _exists(repo: Repository, commit: str, path: str) -> bool:
    return repo.completed("cat-file", "-e", f"{commit}:{path}").returncode == 0


def _rules_for(rules: Rules, indices: Sequence[int]) -> Rules:
    """The rules among those sides that have the model; even weights where none of them has any."""
    weights = [rules.weights[index] for index in indices]
    return replace(
        rules,
        weights=normalised(weights if sum(weights) else [1.0] * len(weights)),
        labels=tuple(rules.labels[index] for index in indices),
    )


def _with_models(repo: Repository, tree: str, entries: Sequence[_Entry]) -> str:
    """The tree with the merged models in place, made in an index of its own."""
    with tempfile.TemporaryDirectory(prefix="gru-merge-") as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        repo.git("read-tree", tree, env=index)
        modes = _modes(repo.git("ls-files", "--stage", "-z", env=index))
        lines = []
        for entry in entries:
            if entry.manifest is None:
                lines.append(f"0 {_NULL}\t{entry.path}")
            else:
                blob = (
                    repo.git("hash-object", "-w", "--stdin", input=entry.manifest.encode()).decode().strip()
                )
                lines.append(f"{modes.get(entry.path, '100644')} {blob}\t{entry.path}")
        feed = "".join(f"{line}\0" for line in lines).encode("utf-8", "surrogateescape")
        repo.git("update-index", "-z", "--index-info", input=feed, env=index)
        return repo.git("write-tree", env=index).decode().strip()


def _modes(listed: bytes) -> dict[str, str]:
    """Path → mode, from `git ls-files --stage -z`."""
    found = {}
    for line in listed.decode("utf-8", "surrogateescape").split("\0"):
        meta, tab, path = line.partition("\t")
        if tab:
            found[path] = meta.split(" ")[0]
    return found


def _stage(repo: Repository, tree: str, heads: Sequence[str], message: str) -> None:
    """Leaves the merge for the user to commit, as `git merge --no-commit` does."""
    done = repo.completed("read-tree", "-m", "-u", "HEAD", tree)
    if done.returncode:
        raise refused("merge", done)
    (repo.git_dir / "MERGE_MSG").write_text(message, encoding="utf-8")
    (repo.git_dir / "MERGE_MODE").write_text("no-ff", encoding="utf-8")
    (repo.git_dir / "MERGE_HEAD").write_text("".join(f"{head}\n" for head in heads), encoding="utf-8")


def _listed(branches: Sequence[str]) -> str:
    *most, last = (f"'{branch}'" for branch in branches)
    return f"{', '.join(most)} and {last}" if most else last
