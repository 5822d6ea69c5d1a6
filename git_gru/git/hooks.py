"""Git hooks: installing the stubs beside a user's own.

A *stub* is a few lines of sh from the folder `hooks/`, marked as git-gru's, with the program's path written in. It calls
the hook that stood there before (kept as `<name>.before-git-gru`) with the same arguments, leaves before Python starts
when no tracked model is concerned, and otherwise runs `git-gru hook NAME`.
"""

import os
import stat
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from git_gru.errors import InputError
from git_gru.git.repository import Repository

MARK = "# git-gru hook stub"
KEPT_SUFFIX = ".before-git-gru"
NAMES = ("pre-commit", "pre-push")
SERVER_NAMES = ("pre-receive",)
"""The hooks of a hub, which takes pushes."""


class HookAction(StrEnum):
    """What became of one hook."""

    INSTALLED = "installed"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    RESTORED = "restored"


class HookChange(NamedTuple):  # no dataclass: a clone's first checkout waits for this file
    """One hook's file, what was done to it, and where the user's own hook is kept, if there is one."""

    path: Path
    action: HookAction
    kept: Path | None = None


def stub_folder() -> Path:
    """Where the stubs are: inside an installed package, or at the root of a checkout."""
    package = Path(__file__).parents[1]
    packed = package / "_hooks"
    return packed if packed.is_dir() else package.parent / "hooks"


def hook_folder(repo: Repository) -> Path:
    """The folder from which Git runs this repository's hooks; `core.hooksPath` counts."""
    found = repo.git("rev-parse", "--path-format=absolute", "--git-path", "hooks")
    return Path(os.fsdecode(found.removesuffix(b"\n")))


def install(repo: Repository, program: str, names: Sequence[str] = NAMES) -> tuple[HookChange, ...]:
    """As `write_stubs`, in the repository's `hook_folder`."""
    return write_stubs(hook_folder(repo), program, names)


def write_stubs(folder: Path, program: str, names: Sequence[str]) -> tuple[HookChange, ...]:
    """Writes our stubs; a hook that is not ours is kept under another name and called by ours.

    Raises `InputError` where two hooks stand in the way of ours, or `folder`, where Git looks for hooks, is none.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(
            f"{folder}, where Git looks for hooks here, is no folder",
            hint="Name another: git config core.hooksPath FOLDER; or none, for .git/hooks: git config --unset core.hooksPath",
        )
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(_install_one(folder / name, _stub(name, program)) for name in names)


def uninstall(repo: Repository) -> tuple[HookChange, ...]:
    """Removes our stubs and puts the hooks back that stood there before."""
    folder = hook_folder(repo)
    names = (*NAMES, *SERVER_NAMES)
    return tuple(change for name in names if (change := _uninstall_one(folder / name)) is not None)


def _stub(name: str, program: str) -> str:
    text = (stub_folder() / name).read_text(encoding="utf-8")
    return text.replace("@GIT_GRU@", program)


def _install_one(hook: Path, text: str) -> HookChange:
    kept = hook.with_name(hook.name + KEPT_SUFFIX)
    action = HookAction.INSTALLED
    if _is_ours(hook):
        if hook.read_text(encoding="utf-8") == text:
            return HookChange(path=hook, action=HookAction.UNCHANGED, kept=kept if kept.exists() else None)
        action = HookAction.UPDATED
    elif hook.exists() or hook.is_symlink():
        if kept.exists() or kept.is_symlink():
            raise InputError(
                f"{hook} is not git-gru's, and an older hook is kept in {kept}",
                hint="Join the two into one file, then run git gru install again.",
            )
        hook.rename(kept)
    temporary = hook.with_name(f"{hook.name}.git-gru-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.chmod(0o755)
    temporary.replace(hook)  # in one step: Git may be about to run it
    return HookChange(path=hook, action=action, kept=kept if kept.exists() else None)


def _uninstall_one(hook: Path) -> HookChange | None:
    if not _is_ours(hook):
        return None
    kept = hook.with_name(hook.name + KEPT_SUFFIX)
    if kept.exists() or kept.is_symlink():
        kept.replace(hook)
        return HookChange(path=hook, action=HookAction.RESTORED)
    hook.unlink()
    return HookChange(path=hook, action=HookAction.REMOVED)


def _is_ours(hook: Path) -> bool:
    if hook.is_symlink() or not hook.is_file() or not stat.S_ISREG(hook.stat().st_mode):
        return False
    with hook.open("rb") as file:
        return MARK.encode() in file.read(256)
