"""How git reaches a host from the store as it does from the user's repository: settings, credentials, programs."""

import re
from pathlib import Path

from git_gru.git.repository import Repository
from git_gru.git.run import LOCAL_VARIABLES, Environment, git
from git_gru.git.settings import Settings

_FORWARDED = r"^(http|credential|ssh|url|protocol)\.|^core\.(sshcommand|gitproxy|askpass)$"
_CONDITION = r"^includeif\."
_OF_REMOTE = ("proxy", "proxyauthmethod", "uploadpack", "receivepack")
_HERE = ("local", "worktree", "command")
_USER = re.compile(r"(?<=://)[^/@]*@")


def transport_environment(repo: Repository, place: Path, name: str | None = None) -> Environment:
    """The environment in which git, run in the Git folder `place`, reaches the same hosts in the same way as in `repo`.

    What ties a process to the user's repository is taken out; settings about transport that only that repository or the command
    line has (a proxy, a credential helper, an ssh command) are passed on, and those of the remote `name` become those of `gru`.
    """
    there = _seen_in(place) if any(repo.settings.matching(_CONDITION)) else None
    passed = [
        (s.key, s.value)
        for s in repo.settings.matching(_FORWARDED)
        if s.scope in _HERE or (there is not None and (s.key, s.value) not in there)
    ]
    for key in _OF_REMOTE if name is not None else ():
        passed += [(f"remote.gru.{key}", value) for value in repo.settings.every(f"remote.{name}.{key}")]
    environment: dict[str, str | None] = dict(LOCAL_VARIABLES)
    for at, (key, value) in enumerate(passed):
        environment[f"GIT_CONFIG_KEY_{at}"], environment[f"GIT_CONFIG_VALUE_{at}"] = key, value
    environment["GIT_CONFIG_COUNT"] = str(len(passed)) if passed else None
    return environment


def shown(url: str) -> str:
    """An address without the user and password that it may have, for messages: these go into logs."""
    return _USER.sub("", url)


def _seen_in(place: Path) -> set[tuple[str, str]]:
    """The settings about transport that git sees in another Git folder: those of the user count for some folders alone."""
    listed = git("config", "--list", "--show-scope", "-z", env={**LOCAL_VARIABLES, "GIT_DIR": str(place)})
    return {(setting.key, setting.value) for setting in Settings(listed).matching(_FORWARDED)}
