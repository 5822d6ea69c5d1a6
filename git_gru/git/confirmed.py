"""What a remote was seen to have: commits, and all models that these reach.

A push looks only at commits beyond these, as long as the remote's state still has every one of the models. Tracking branches say
nothing of the kind: the remote's address may have changed since, and a branch may have come there, or been brought back, without
its models. The notes are a cache, a file for each address; without one a push looks at the whole history. In a shallow clone,
whose history may become longer, nothing is noted and no note is believed.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from git_gru.git.repository import Repository
from git_gru.ids import digest

_MOST = 64
"""So many commits are noted, the latest."""


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """Commits, and the digests of (at least) all models that they reach."""

    commits: tuple[str, ...] = ()
    models: frozenset[str] = frozenset()


def read_confirmed(repo: Repository, url: str) -> Confirmed:
    """What was noted of the remote at `url`."""
    if _is_shallow(repo):
        return Confirmed()
    try:
        found = json.loads(_file(repo, url).read_text())
        return Confirmed(commits=tuple(found["commits"]), models=frozenset(found["models"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Confirmed()


def write_confirmed(repo: Repository, url: str, confirmed: Confirmed) -> None:
    """Notes what the remote at `url` has now."""
    if _is_shallow(repo):
        return
    file = _file(repo, url)
    file.parent.mkdir(parents=True, exist_ok=True)
    building = file.with_name(f"{file.name}.{os.getpid()}")
    noted = {"commits": confirmed.commits[:_MOST], "models": sorted(confirmed.models)}
    building.write_text(json.dumps(noted))
    building.replace(file)


def _is_shallow(repo: Repository) -> bool:
    return (repo.common_dir / "shallow").exists()


def _file(repo: Repository, url: str) -> Path:
    return repo.gru_dir / "confirmed" / f"{digest(url.encode('utf-8', 'surrogateescape'))[:32]}.json"
