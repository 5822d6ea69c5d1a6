"""Sites: clones that train one model together, through commits on a Git host and nothing else (`sync.strategy = "git"`).

Each site has a branch `gru/<group>/<site>` there that it alone moves. On it stands, for every round, a checkpoint of what the
site has learnt by itself, and between two of them, where others had something new, the *merge* from which the next round went on:

    source ──── a1 ──┬── merge ──── a2 ──┬── merge ──── …
         └───── b1 ──┘       └───── b2 ──┘

A site merges what is there when it comes to the end of a round. One that is late, or is cut off, is in a later merge with all
that it has learnt meanwhile; one that is gone is in no more merges.

A merge is a function of its parents, so sites that merge the same come to the same commit, bit for bit:

- sides stand in the order of the sites' names, and author, committer and date follow from them,
- a side's weight is the number of samples (`Gru-Samples`) in its history; those that several sides have are divided among them,
  those that all have do not count: so every sample counts once, however often its commit was merged,
- a side that another one has in its history does not count, nor one of no weight,
- a tensor that one side alone has changed since the common base is taken from there, as in every merge.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from git_gru.errors import InputError
from git_gru.git.branches import BranchMerge, MergedModel, Outcome, merge_base, trailers
from git_gru.git.commits import build_tree
from git_gru.git.merging import Rules, merge_models
from git_gru.git.publishing import publish_revisions
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader
from git_gru.git.run import GitCommandError
from git_gru.runs.trailers import ROUND, SAMPLES, SITE, CheckpointInfo, parse_checkpoint, read_trailers
from git_gru.store.manifest import Manifest
from git_gru.tensors.combine import normalised
from git_gru.tensors.strategies import STRATEGIES

SITES = "Gru-Merge-Sites"
_TIPS = "refs/gru/sites/"
_SPECIAL = re.compile(r"[^A-Za-z0-9_-]")
_LOOKED_AT = 8
"""Commits that are looked at for a site's newest checkpoint, of those that say the site: a commit may quote another's message."""
_QUIET = {"GIT_TERMINAL_PROMPT": "0"}  # nobody is there to answer


class SiteTakenError(InputError):
    """The branch of a site on the host has commits that this site has not made."""


class MergeSitesError(InputError):
    """What sites have learnt cannot be merged."""


@dataclass(frozen=True, kw_only=True)
class SiteTip:
    """How far a site is, as the host knows: the tip of its branch, and the round and metrics of its newest checkpoint (0 and none
    before the first).
    """

    site: str
    commit: str
    round: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SitesMerge:
    """What to go on from. `weights` are those of the sites whose commits went into it, summing to 1; `left_out` says of others
    why they cannot.
    """

    commit: str
    weights: Mapping[str, float]
    left_out: Mapping[str, str]


def site_branch(group: str, site: str) -> str:
    """The branch of a site."""
    return f"gru/{group}/{site}"


def round_of(repo: Repository, commit: str) -> int:
    """The rounds that a commit has behind it; 0 where it is none of a site's."""
    said = read_trailers(repo.git("log", "-1", "--format=%B", commit).decode("utf-8", "replace")).get(
        ROUND, "0"
    )
    return int(said) if said.isdecimal() else 0


def fetch_sites(repo: Repository, remote: str, group: str) -> dict[str, SiteTip]:
    """Fetches the branches of a group's sites (commits alone, no models); how far each is, by name.

    Raises `GitCommandError` when the host cannot be reached.
    """
    there = f"{_TIPS}{group}/"
    refs = f"+refs/heads/{site_branch(group, '*')}:{there}*"
    quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--refmap=")
    repo.git("fetch", *quiet, "--prune", remote, refs, env=_QUIET)
    listed = repo.git("for-each-ref", "--format=%(refname) %(objectname)", there).decode().split()
    found = dict(zip(listed[::2], listed[1::2], strict=True))
    return {
        site: _tip(repo, site, commit)
        for site, commit in ((ref.removeprefix(there), commit) for ref, commit in found.items())
    }


def push_site(repo: Repository, remote: str, branch: str, commit: str) -> None:
    """Publishes the models of `commit` and moves the site's branch on the host on to it.

    Raises `SiteTakenError`, and `GitCommandError` or what `publish_revisions` raises when the host cannot be reached or refuses.
    """
    publish_revisions(repo, remote, [commit])
    try:
        repo.git("push", "--quiet", "--no-verify", remote, f"{commit}:refs/heads/{branch}", env=_QUIET)
    except GitCommandError as error:
        if "[rejected]" not in error.stderr:
            raise
        raise SiteTakenError(
            f"the branch {branch} of {remote} has commits that are not of this site: another clone trains under its name",
            hint="Give each site a name of its own: --site NAME",
        ) from error


def newest_checkpoint(repo: Repository, site: str, tip: str) -> CheckpointInfo | None:
    """What the newest checkpoint of a site says, among the commits of its branch; None where there is none.

    A merge at the tip has sides of any length: so it is asked for by its trailer, not looked for among the first commits.
    """
    name = _SPECIAL.sub(r"\\\g<0>", site)  # that of another site is whatever the host says
    said = ("--extended-regexp", f"--grep=^{SITE}: {name}$", f"--max-count={_LOOKED_AT}")
    found = (parse_checkpoint(message) for _, message in _log(repo, *said, tip))
    return next((info for info in found if info and info.site and info.site.site == site), None)


def checkpoint_of_round(repo: Repository, tip: SiteTip, round: int, since: str) -> str | None:
    """The newest checkpoint that a site made in `round`, among the commits that `since` does not have."""
    for commit, message in _log(repo, f"{since}..{tip.commit}"):
        info = parse_checkpoint(message)
        if (
            info is not None
            and info.site is not None
            and (info.site.site, info.site.round) == (tip.site, round)
        ):
            return commit
    return None


def merge_sites(repo: Repository, path: str, own: str, commits: Mapping[str, str]) -> SitesMerge:
    """Merges the models at `path` of the sites' `commits`, by name, with `own` among them; no reference is moved.

    Models that are not here are brought. Raises `StoreError` where one is nowhere, `MergeSitesError`.
    """
    reader = ModelReader(repo)
    left_out = {
        site: reason
        for site, commit in commits.items()
        if site != own and (reason := _misfit(repo, reader, path, commits[own], commit))
    }
    fitting = {commits[site]: site for site in sorted(commits, reverse=True) if site not in left_out}
    independent = repo.git("merge-base", "--independent", *fitting).decode().split()
    sides = {fitting[commit]: commit for commit in sorted(independent, key=lambda commit: fitting[commit])}
    base = merge_base(repo, list(sides.values()))
    samples = _samples(repo, base, sides)
    sides = {site: commit for site, commit in sides.items() if samples[site]} or dict(
        [next(iter(sides.items()))]
    )
    if len(sides) == 1:
        ((site, commit),) = sides.items()
        return SitesMerge(commit=commit, weights={site: 1.0}, left_out=left_out)
    rules = Rules(
        strategy=STRATEGIES["average"],
        weights=normalised([samples[site] for site in sides]),
        labels=tuple(sides),
    )
    made = _merge_commit(repo, reader, path, commits[own], base, sides, rules)
    return SitesMerge(commit=made, weights=dict(zip(sides, rules.weights, strict=True)), left_out=left_out)


def _merge_commit(
    repo: Repository,
    reader: ModelReader,
    path: str,
    own: str,
    base: str,
    sides: Mapping[str, str],
    rules: Rules,
) -> str:
    """The commit of the sides' mean, in the tree of `own`."""
    before, models = reader.models(base)[path], [reader.models(commit)[path] for commit in sides.values()]
    store = repo.store()
    try:
        merged = merge_models(store, before, models, rules)
    finally:
        store.close()
    if merged.conflicts:
        raise MergeSitesError(f"{path}: {merged.conflicts[0]}")
    result = BranchMerge(
        outcome=Outcome.MERGED,
        branches=tuple(sides),
        base=base,
        rules=rules,
        models=(MergedModel(path=path, counts=merged.counts),),
    )
    round = max(round_of(repo, commit) for commit in sides.values())
    names = ", ".join(sides)
    said = [
        f"sync: round {round} of {names}",
        "",
        f"{ROUND}: {round}",
        f"{SITES}: {names}",
        *trailers(result),
        "",
    ]
    tree = build_tree(repo, own, path, merged.manifest)
    parents = [word for commit in sides.values() for word in ("-p", commit)]
    when = max(repo.git("log", "--no-walk", "--format=%ct", *sides.values()).decode().split(), key=int)
    who = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", "git-gru"), ("EMAIL", "git-gru@localhost"), ("DATE", f"@{when} +0000"))
    }
    return repo.git("commit-tree", tree, *parents, input="\n".join(said).encode(), env=who).decode().strip()


def _misfit(repo: Repository, reader: ModelReader, path: str, own: str, other: str) -> str | None:
    """Why the model of another site cannot be averaged with our own; None where it can."""
    found = repo.completed("merge-base", own, other).stdout.decode().split()
    if not found or path not in reader.models(found[0]):
        return f"it has no commit with {path} in common with this site"
    theirs = reader.models(other).get(path)
    if theirs is None or _layout(theirs) != _layout(reader.models(own)[path]):
        return f"its {path} is another network"
    return None


def _layout(model: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (entry.dtype, entry.shape) for name, entry in model.tensors.items()}


def _samples(repo: Repository, base: str, sides: Mapping[str, str]) -> dict[str, float]:
    """By site: the samples in its history, but for those of all sides; what some have in common is divided among them."""
    form = f"--format=%H %(trailers:key={SAMPLES},valueonly,separator=%x20)"
    histories = {}
    for site, commit in sides.items():
        lines = repo.git("log", form, commit, f"^{base}").decode("utf-8", "replace").splitlines()
        words = [line.split() for line in lines]
        histories[site] = {id: sum(int(word) for word in said if word.isdecimal()) for id, *said in words}
    having = Counter(commit for history in histories.values() for commit in history)
    return {
        site: math.fsum(
            count / having[commit] for commit, count in history.items() if having[commit] < len(sides)
        )
        for site, history in histories.items()
    }


def _tip(repo: Repository, site: str, commit: str) -> SiteTip:
    info = newest_checkpoint(repo, site, commit)
    if info is None or info.site is None:
        return SiteTip(site=site, commit=commit)
    return SiteTip(site=site, commit=commit, round=info.site.round, metrics=info.metrics)


def _log(repo: Repository, *which: str) -> list[tuple[str, str]]:
    """(commit, message), newest first."""
    log = repo.git("log", "--topo-order", "--format=%H%n%B%x00", *which).decode("utf-8", "replace")
    entries = (entry.strip().partition("\n") for entry in log.split("\0"))
    return [(commit, message) for commit, _, message in entries if commit]
