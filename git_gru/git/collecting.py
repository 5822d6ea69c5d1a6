"""Collecting what a repository needs no more from its store: settings, and the store's `collect` applied to Git's records.

Settings: `gru.gcGrace` (default 14d) and `gru.gcEarlyGrace` (default 10m), durations as `parse_duration` reads them.
"""

import re

from git_gru.errors import InputError
from git_gru.git.manifests import ManifestBlobs
from git_gru.git.needs import find_needs
from git_gru.git.repository import Repository
from git_gru.store.collect import DAY, Collected, Plan, Rules, collect, plan
from git_gru.store.rewrite import Keep, free_of_garbage
from git_gru.store.store import Store

GRACE, EARLY = "gru.gcGrace", "gru.gcEarlyGrace"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}
_DURATION = re.compile(r"(\d{1,6})([smhdw])\Z")


class DurationError(InputError):
    """A text that is no duration."""


def parse_duration(text: str, *, where: str) -> float:
    """Seconds in `14d`, `12h`, `30m`, `90s`, `2w`, `0` or `now`. Raises `DurationError`, naming `where`."""
    if text in ("0", "now"):
        return 0.0
    found = _DURATION.match(text)
    if found is None:
        raise DurationError(
            f"{where}: {text!r} is no duration", hint="Write a number and a unit: 14d, 12h, 30m, or now"
        )
    return int(found[1]) * _UNITS[found[2]]


def collection_rules(repo: Repository, grace: str | None = None) -> Rules:
    """The rules of this repository's settings; `grace` (as the user wrote it) comes first. Raises `DurationError`."""
    early = repo.config(EARLY)
    wanted, where = (grace, "--grace") if grace is not None else (repo.config(GRACE), GRACE)
    return Rules(
        grace=Rules.grace if wanted is None else parse_duration(wanted, where=where),
        early=Rules.early if early is None else parse_duration(early, where=EARLY),
    )


def plan_collection(repo: Repository, store: Store, rules: Rules) -> Plan:
    """Which models a collection would drop now. Raises what `find_needs` raises."""
    return plan(store, lambda: find_needs(repo, store.stamps), rules)


def run_collection(
    repo: Repository, store: Store, planned: Plan, *, keep: Keep = free_of_garbage
) -> Collected:
    """Does what was planned. Raises `RewriteRunningError`."""
    return collect(store, planned, ManifestBlobs(repo, store.stamps).chunks_of, keep=keep)
