"""Telling Git about git-gru: the filter, the drivers, the hooks and, where it is needed, the name `git gru` itself.

Git finds programs on the PATH of whoever runs it: a fresh shell, an editor, a GUI. A git-gru in a virtual environment is
not there, so its absolute path is written into the settings, and the alias `gru` makes `git gru` work as well.

Everything is idempotent, and `uninstall` takes away what `install` wrote and nothing else.
"""

import shlex
import shutil
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from git_gru.errors import InputError
from git_gru.git import hooks
from git_gru.git.repository import NotARepositoryError, Repository
from git_gru.git.run import completed, git


class Scope(StrEnum):
    """Which of Git's settings files is written."""

    LOCAL = "local"
    GLOBAL = "global"
    SYSTEM = "system"


class ForeignSettingError(InputError):
    """A setting that git-gru needs is taken by something else."""


@dataclass(frozen=True, kw_only=True)
class Installation:
    """What `install` or `uninstall` did: the settings file, the settings changed, and the hooks if there is a repository."""

    scope: Scope
    program: str
    changed: tuple[str, ...]
    hooks: tuple[hooks.HookChange, ...]


def program_command(search_path: str) -> str:
    """How Git is to call git-gru, as a shell command: the plain name only where every shell finds this very program.

    `search_path` is the user's PATH. A virtual environment is on it only while it is activated, so there the answer is
    the absolute path. Without a console script (run from a checkout) it is this Python with `-m git_gru`; `-P` keeps
    Python from importing what lies in the folder that Git starts it in.
    """
    script = Path(sys.executable).with_name("git-gru")
    if not script.is_file():
        return f"{shlex.quote(sys.executable)} -P -m git_gru"
    found = shutil.which("git-gru", path=search_path)
    in_environment = sys.prefix != sys.base_prefix
    if found is not None and not in_environment and script.samefile(found):
        return "git-gru"
    return shlex.quote(str(script))


def settings(program: str) -> dict[str, str]:
    """The Git settings that make up an installation; `program` is a shell command."""
    wanted = {
        "filter.gru.process": f"{program} filter-process",
        "filter.gru.required": "true",
        "diff.gru.command": f"{program} diff-driver",
        "diff.gru.textconv": f"{program} textconv",
        "diff.gru.cachetextconv": "true",
        "merge.gru.name": "git-gru: models, tensor by tensor",
        "merge.gru.driver": f"{program.replace('%', '%%')} merge-driver %O %A %B %L %P",
        "merge.gru.recursive": "binary",
    }
    if program != "git-gru":
        # Git runs such an alias at the worktree's top with the user's folder in GIT_PREFIX; in a linked worktree also with
        # GIT_DIR, but without GIT_WORK_TREE, so that any folder gone to would pass for the worktree's top
        wanted["alias.gru"] = (
            f'!case "$GIT_DIR" in */worktrees/*) unset GIT_DIR;; esac; cd -- "${{GIT_PREFIX:-.}}" && {program}'
        )
    return wanted


def install(repo: Repository | None, scope: Scope, program: str) -> Installation:
    """Writes the settings to `scope` and, when there is a repository, its hooks.

    Raises `NotARepositoryError` for the local scope without a repository, `ObjectFormatError` for that with one of SHA-256,
    `ForeignSettingError` when `alias.gru` or a setting of a filter `gru` exists and is somebody else's.
    """
    where = _where(repo, scope)
    if repo is not None and scope is Scope.LOCAL:
        repo.require_sha1()
    present = {key: _get(repo, where, key) for key in (*settings(program), "alias.gru")}
    for key, value in present.items():
        if value is not None and not _ours(key, value):
            raise ForeignSettingError(
                f"the Git setting {key} is taken: {value}",
                hint=f"If you can spare it: git config {where} --unset {key}",
            )
    wanted = settings(program)
    changed = [key for key, value in wanted.items() if present[key] != value]
    for key in changed:
        _configure(repo, where, "--replace-all", key, wanted[key])
    if "alias.gru" not in wanted and present["alias.gru"] is not None:
        _configure(repo, where, "--unset-all", "alias.gru")
    done = hooks.install(repo, program) if repo is not None else ()
    return Installation(scope=scope, program=program, changed=tuple(changed), hooks=done)


_SERVING = {
    "uploadpack.allowFilter": "true",  # these two let clones fetch single models
    "uploadpack.allowAnySHA1InWant": "true",
    "core.bigFileThreshold": "1m",  # and this one keeps git from looking for deltas between weights
}
"""What a hub should be set to."""


def install_server(repo: Repository | None, program: str) -> Installation:
    """Writes the hook and settings of a hub, a bare repository that is pushed to.

    Raises `NotARepositoryError`, `ObjectFormatError`.
    """
    if repo is None or repo.worktree is not None:
        raise NotARepositoryError(
            f"{Path.cwd()} is no bare repository",
            hint="Go to the folder of the hub, where pushes arrive, and run it there.",
        )
    repo.require_sha1()
    changed = [key for key, value in _SERVING.items() if repo.config(key) != value]
    for key in changed:
        repo.git("config", "--local", key, _SERVING[key])
    done = hooks.install(repo, program, hooks.SERVER_NAMES)
    return Installation(scope=Scope.LOCAL, program=program, changed=tuple(changed), hooks=done)


def uninstall(repo: Repository | None, scope: Scope) -> Installation:
    """Takes the settings out of `scope` and, when there is a repository, restores the hooks that stood there before.

    The hooks stay where another scope than the local one was left and other settings go on telling Git about git-gru.
    """
    where = _where(repo, scope)
    changed = []
    for key in settings(""):
        value = _get(repo, where, key)
        if value is not None and _ours(key, value):
            _configure(repo, where, "--unset-all", key)
            changed.append(key)
    needless = repo is not None and (scope is Scope.LOCAL or not is_installed(repo))
    done = hooks.uninstall(repo) if repo is not None and needless else ()
    return Installation(scope=scope, program="", changed=tuple(changed), hooks=done)


def is_installed(repo: Repository) -> bool:
    """Whether Git, in this repository, knows the filter from any of its settings files."""
    return repo.config("filter.gru.process") is not None


def _where(repo: Repository | None, scope: Scope) -> str:
    if scope is Scope.LOCAL and repo is None:
        raise NotARepositoryError(
            f"{Path.cwd()} is not in a Git repository",
            hint="Go to one, or install for all your repositories: git gru install --global",
        )
    return f"--{scope.value}"


def _ours(key: str, value: str) -> bool:
    """Whether a present setting may be replaced or removed: all that is called `*.gru.*` must call some git-gru."""
    calls = key.endswith((".process", ".command", ".textconv", ".driver")) or key == "alias.gru"
    return not calls or "git-gru" in value or "git_gru" in value


def _get(repo: Repository | None, where: str, key: str) -> str | None:
    arguments = ("config", where, "--get", key)
    result = repo.completed(*arguments) if repo is not None else completed(*arguments)
    return result.stdout.decode("utf-8", "replace").removesuffix("\n") if result.returncode == 0 else None


def _configure(repo: Repository | None, *arguments: str) -> None:
    if repo is not None:
        repo.configure(*arguments)
    else:
        git("config", *arguments)
