"""A site's side of `sync.strategy = "git"`: how its run begins or goes on, and what happens where a round ends. Free of torch.

    a round of training → a checkpoint, on the site's branch → pushed → others' branches fetched
    → merged with them (`git_gru.git.sites`) → the next round, from the merge; the optimizer's state stays the site's own

The branch itself moves on at checkpoints alone (and to the last merge, at the end), so a site that is killed finds itself at a
checkpoint whose resume state it has, and meets the others there again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from git_gru.errors import GruError, InputError
from git_gru.git.repository import Repository
from git_gru.git.revisions import resolve_commit
from git_gru.git.run_refs import run_ids
from git_gru.git.sites import (
    SiteTakenError,
    SiteTip,
    checkpoint_of_round,
    fetch_sites,
    merge_sites,
    newest_checkpoint,
    push_site,
    round_of,
    site_branch,
)
from git_gru.git.sources import push_urls
from git_gru.train.plan import Request, read_recipe
from git_gru.train.recipe import SyncRecipe

_POLL_SECONDS = 0.5


class SiteError(InputError):
    """A site cannot begin or go on."""


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """What came of the end of a round: the commit to go on from; of each site seen its `round`, its `weight` in the merge (0: not
    in it) and its `val_loss` where known; a sentence where something is to be said.
    """

    commit: str
    round: int
    sites: Mapping[str, Mapping[str, float]]
    message: str | None = None


def begin_site(repo: Repository, request: Request) -> Request | str:
    """How a site's command goes on: the id of the run to resume, or what to plan a new run from.

    A site without a branch here starts from its branch on the host, else from the site that is farthest; from the commit asked
    for where none has come farther than the first round, which they then begin together.

    Raises `SiteError`, `RecipeError`, and `GitCommandError` when the host cannot be reached.
    """
    remote = request.push or "origin"
    push_urls(repo, remote)  # told now, if there is no such remote
    commit = resolve_commit(repo, request.commit)
    sync = read_recipe(repo, commit, request.recipe_path, request.overrides).sync
    branch = site_branch(sync.group, sync.site)
    found = repo.completed("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}").stdout.decode().strip()
    if found:
        return _run_to_resume(repo, branch, found)
    tips = fetch_sites(repo, remote, sync.group)
    ahead = [tip for tip in tips.values() if tip.round > 1]
    start = tips.get(sync.site) or max(ahead, key=lambda tip: (tip.round, tip.site), default=None)
    return replace(request, commit=start.commit if start else commit, branch=branch, push=remote)


def _run_to_resume(repo: Repository, branch: str, tip: str) -> str:
    """The run whose checkpoint is at the branch, or before the merge that is there."""
    info = newest_checkpoint(repo, branch.rpartition("/")[2], tip)
    if info is None:
        raise SiteError(
            f"the branch {branch} is there already, and no run of this site has made it",
            hint="Choose another --site, or another name for the group: --set sync.group=NAME",
        )
    if info.run not in run_ids(repo):
        raise SiteError(
            f"the branch {branch} is of the run {info.run}, which is not here, nor what a resume of it needs",
            hint=f"To start anew from it as the host has it: git branch -D {branch}, and the same command again",
        )
    return info.run


class SiteLink:
    """A site's link to the others, used by its rank 0 between rounds. `stop` says whether waiting is to end at once."""

    def __init__(
        self, repo: Repository, *, remote: str, path: str, sync: SyncRecipe, stop: Callable[[], bool]
    ) -> None:
        # of its own: objects are not shared with the committing thread
        self._repo = Repository(repo.worktree, repo.git_dir, repo.common_dir, repo.environment)
        self._remote, self._path, self._sync, self._stop = remote, path, sync, stop
        self._branch = site_branch(sync.group, sync.site)
        self._in_time: set[str] | None = None
        self._failure: str | None = None

    def meet(self, commit: str) -> Meeting:
        """Pushes the checkpoint `commit`, waits as the recipe says, and merges what other sites have pushed.

        A host that cannot be reached, or does not take or give what it should, is told of, and the site goes on alone until the
        next round. Raises `SiteTakenError`.
        """
        round = round_of(self._repo, commit)
        try:
            push_site(self._repo, self._remote, self._branch, commit)
            tips = self._gather(round)
            sides = {site: self._side(tip, round, commit) for site, tip in tips.items()}
            sides[self._sync.site] = commit
            merged = merge_sites(self._repo, self._path, self._sync.site, sides)
        except SiteTakenError:
            raise
        except (GruError, OSError) as error:
            before, self._failure = self._failure, f"not merged with other sites at {self._remote}: {error}"
            message = self._failure if self._failure != before else None
            return Meeting(commit=commit, round=round, sites={}, message=message)
        back, self._failure = self._failure is not None, None
        said = [f"sites at {self._remote} are merged with again"] if back else []
        said += [f"site {site} is left out: {reason}" for site, reason in merged.left_out.items()]
        return Meeting(
            commit=merged.commit,
            round=round_of(self._repo, merged.commit),
            sites=_seen(tips, merged.weights),
            message="; ".join(said) or None,
        )

    def push(self, commit: str) -> str | None:
        """Pushes the run's last commit; a sentence where that fails."""
        try:
            push_site(self._repo, self._remote, self._branch, commit)
        except SiteTakenError:
            raise
        except (GruError, OSError) as error:
            return f"not pushed to {self._remote}: {error}"
        return None

    def _gather(self, round: int) -> dict[str, SiteTip]:
        """All sites, once those that are waited for have come to the end of `round`, or the time is over."""
        until = time.monotonic() + self._sync.wait
        while True:
            tips = fetch_sites(self._repo, self._remote, self._sync.group)
            here = {site for site, tip in tips.items() if tip.round >= round and site != self._sync.site}
            first = self._in_time is None
            missing = len(here) < self._sync.members - 1 if first else bool((self._in_time or set()) - here)
            if not missing or time.monotonic() >= until or self._stop():
                self._in_time = here
                return tips
            time.sleep(_POLL_SECONDS)

    def _side(self, tip: SiteTip, round: int, own: str) -> str:
        """The commit of another site to merge: its newest; of one that has merged this round already, its checkpoint before."""
        if tip.round not in (round, round + 1):
            return tip.commit
        return checkpoint_of_round(self._repo, tip, round, own) or tip.commit


def _seen(tips: Mapping[str, SiteTip], weights: Mapping[str, float]) -> dict[str, dict[str, float]]:
    return {
        site: {"round": tip.round, "weight": weights.get(site, 0.0)}
        | {key: value for key, value in tip.metrics.items() if key == "val_loss"}
        for site, tip in sorted(tips.items())
    }
