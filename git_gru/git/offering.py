"""Offering hooks: a clone gets the stubs with its first model.

Settings for all repositories bring no hooks into a clone, and a push without the pre-push hook leaves the models behind.

- Hooks are offered *once*. A pre-push hook that somebody else put there is kept and called by ours, as `git gru install` does it.
  Stubs that were taken away later are not put back.
- Nothing is written unasked outside the Git folder. `core.hooksPath` may name a folder of the worktree, which goes to others with
  the next commit, or one that all repositories of a user share.
- A push that would leave models behind is told of: when hooks are offered, whenever the repository's settings have changed since,
  and once a day. Whoever keeps hooks in a place of their own lets pre-push call `git gru hook pre-push "$@"`, or says by the
  setting `gru.hooks` = false that they see to it.

The filter asks `is_settled` each time that it starts; all that is heavy is imported later.
"""

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from git_gru.errors import InputError
from git_gru.git.repository import Repository

if TYPE_CHECKING:
    from git_gru.git.hooks import HookChange

SETTING = "gru.hooks"

_MARK = "hooks-offered"
_DONE = b"offered\n"
_DAY = 86_400.0
_CALL = re.compile(rb"git[-_ ]gru\S* hook pre-push")


class NoPushHookError(InputError):
    """No hook sends the models of what is pushed from here."""


def is_settled(repo: Repository) -> bool:
    """Whether hooks were offered, or looked for, within a day and since the repository's settings changed."""
    try:
        mark = (repo.gru_dir / _MARK).stat()
        changed = (repo.common_dir / "config").stat().st_mtime_ns
    except FileNotFoundError:
        return False
    return bool(mark.st_size) and changed <= mark.st_mtime_ns and time.time() - mark.st_mtime < _DAY


def offer(repo: Repository) -> "tuple[HookChange, ...]":
    """Writes the stubs the first time, and says what became of the hooks.

    Raises `NoPushHookError` where no hook sends the models after that, `InputError` where two hooks stand in the way of ours.
    """
    from git_gru.git.hooks import hook_folder

    repo.gru_dir.mkdir(parents=True, exist_ok=True)
    folder = hook_folder(repo)
    with (repo.gru_dir / _MARK).open("ab") as mark:
        # two filters at once: the second would take our stub for somebody else's hook
        fcntl.flock(mark, fcntl.LOCK_EX)
        command = repo.config("filter.gru.process")
        if command is None:
            return ()
        try:
            first = not os.fstat(mark.fileno()).st_size
            done = _write(repo, folder, command.removesuffix(" filter-process")) if first else ()
        finally:
            os.truncate(mark.fileno(), 0)
            mark.write(_DONE)
    _require_push_hook(repo, folder)
    return done


def require_push_hook(repo: Repository) -> None:
    """Raises `NoPushHookError` unless Git, at a push from here, runs a hook that sends the models, or the user sees to it."""
    from git_gru.git.hooks import hook_folder

    _require_push_hook(repo, hook_folder(repo))


def _require_push_hook(repo: Repository, folder: Path) -> None:
    if (repo.config(SETTING) or "true").lower() in ("false", "no", "off", "0"):
        return
    hook = folder / "pre-push"
    if _sends_models(hook):
        return
    here = _is_own(repo, hook.parent)
    raise NoPushHookError(
        f"git push from here leaves the models behind: {hook} {'calls no git-gru' if hook.exists() else 'is not there'}",
        hint="Put it there: git gru install"
        if here
        else f"core.hooksPath names that folder, so nothing is written there unasked. Let its pre-push run "
        f'`git gru hook pre-push "$@"`, or have git-gru\'s hooks put there: git gru install '
        f"(git config {SETTING} false: you send models by git gru push)",
    )


def _write(repo: Repository, folder: Path, program: str) -> "tuple[HookChange, ...]":
    from git_gru.git.hooks import NAMES, write_stubs

    if not _is_own(repo, folder):
        return ()
    wanted = [name for name in NAMES if not os.path.lexists(folder / name)]
    # Nothing is lost without our pre-commit hook: another stays alone in its place
    if "pre-push" not in wanted and not _sends_models(folder / "pre-push"):
        wanted.append("pre-push")
    return write_stubs(folder, program, wanted)


def _sends_models(hook: Path) -> bool:
    """Whether the hook is one that Git runs, and calls git-gru: our stub does, and another may."""
    with contextlib.suppress(OSError):
        return os.access(hook, os.X_OK) and _CALL.search(hook.read_bytes()) is not None
    return False


def _is_own(repo: Repository, folder: Path) -> bool:
    """Whether the hook folder is in the repository's Git folder: its own, and seen by nobody else."""
    return folder.resolve().is_relative_to(repo.common_dir.resolve())
