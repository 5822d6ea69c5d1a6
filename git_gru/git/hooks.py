"""Git hooks: installing the stubs beside a user's own, and what the hooks do.

A *stub* is a few lines of sh from the folder `hooks/`, marked as git-gru's, with the program's path written in. It calls
the hook that stood there before (kept as `<name>.before-git-gru`) with the same arguments, leaves before Python starts
when no tracked model is concerned, and otherwise runs `git-gru hook NAME`.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from git_gru.errors import InputError
from git_gru.formats.safetensors import HeaderError, parse_header
from git_gru.git.attributes import with_filter
from git_gru.git.finite import nonfinite_tensors
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader
from git_gru.store.manifest import Manifest
from git_gru.store.store import Store

MARK = "# git-gru hook stub"
KEPT_SUFFIX = ".before-git-gru"
NAMES = ("pre-commit", "pre-push")
SERVER_NAMES = ("pre-receive",)
"""The hooks of a hub, which takes pushes."""
_NAMED = 3
"""Tensors that a refusal names of one model."""


class HookAction(StrEnum):
    """What became of one hook."""

    INSTALLED = "installed"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    RESTORED = "restored"


@dataclass(frozen=True, kw_only=True)
class HookChange:
    """One hook's file, what was done to it, and where the user's own hook is kept, if there is one."""

    path: Path
    action: HookAction
    kept: Path | None = None


class RefusedCommitError(InputError):
    """The pre-commit hook refuses the commit."""


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
    """Writes our stubs; a hook that is not ours is kept under another name and called by ours.

    Raises `InputError` where two hooks stand in the way of ours, or Git looks for hooks in what is no folder.
    """
    folder = hook_folder(repo)
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


def pre_commit(repo: Repository) -> None:
    """Refuses to commit a `*.safetensors` that is not safetensors, or whose weights are not all numbers.

    Raises `RefusedCommitError` naming each and why. `gru.allowNonFinite` lets NaN and infinity in.
    """
    staged = staged_models(repo)
    if refused := broken_models(repo, staged):
        listed = "".join(f"\n  {path}: {reason}" for path, reason in refused.items())
        raise RefusedCommitError(
            f"not committed, because this is not a safetensors file:{listed}",
            hint="Write the file anew and add it again, or commit it as it is, bit for bit: git commit --no-verify",
        )
    found = nonfinite_models(repo, staged)
    if found and not _allowed(repo, "gru.allowNonFinite"):
        listed = "".join(f"\n  {path}: {_named(tensors)}" for path, tensors in found.items())
        raise RefusedCommitError(
            f"not committed, because weights are NaN or infinite:{listed}",
            hint="Take an earlier version (git restore --source=HEAD PATH), or commit it all the same: "
            "git commit --no-verify, or for always: git config gru.allowNonFinite true",
        )


class StagedModel(NamedTuple):
    """A model in the index that differs from HEAD's, and HEAD's, if there is one."""

    manifest: Manifest
    before: Manifest | None


def staged_models(repo: Repository) -> dict[str, StagedModel]:
    """Staged changes to `*.safetensors` models, by path."""
    against = repo.git("rev-parse", "--verify", "--quiet", "HEAD", check=False).decode().strip()
    if not against:
        against = repo.git("hash-object", "-t", "tree", "--stdin", input=b"").decode().strip()
    listed = repo.git("diff-index", "--cached", "--diff-filter=d", "-z", against, "--", "*.safetensors")
    fields = listed.decode("utf-8", "surrogateescape").split("\0")
    blobs = {path: meta.split(" ")[2:4] for meta, path in zip(fields[::2], fields[1::2], strict=False)}
    reader, lenient = ModelReader(repo), ModelReader(repo, skip_unreadable=True)
    found = {}
    for path in with_filter(repo, list(blobs)):
        old, new = blobs[path]
        manifest = reader.manifest(new, path)
        if manifest is not None:
            found[path] = StagedModel(manifest, lenient.manifest(old, path) if old.strip("0") else None)
    return found


def broken_models(repo: Repository, staged: Mapping[str, StagedModel]) -> dict[str, str]:
    """The staged models whose bytes do not parse: path → the reason."""
    return {
        path: _reason(repo.store(), model.manifest, path)
        for path, model in staged.items()
        if model.manifest.is_raw
    }


def nonfinite_models(repo: Repository, staged: Mapping[str, StagedModel]) -> dict[str, list[str]]:
    """The staged models that bring in a NaN or an infinity: path → the tensors. Weights that are not here stay unseen."""
    store = repo.store()
    looked = {
        path: nonfinite_tensors(store, model.manifest, model.before)
        for path, model in staged.items()
        if store.has_model(model.manifest.digest)
    }
    return {path: tensors for path, tensors in looked.items() if tensors}


def _allowed(repo: Repository, setting: str) -> bool:
    """Whether a setting is true in one of the ways that Git has to say so."""
    return repo.git("config", "--type=bool", "--get", setting, check=False).strip() == b"true"


def _named(tensors: Sequence[str]) -> str:
    more = f" and {len(tensors) - _NAMED} more" if len(tensors) > _NAMED else ""
    return ", ".join(tensors[:_NAMED]) + more


def _reason(store: Store, manifest: Manifest, path: str) -> str:
    """Why the bytes that `manifest` keeps raw are no safetensors file."""
    data = b""
    for chunk in manifest.raw or ():
        data += store.chunk(chunk)
        if len(data) >= 8 + int.from_bytes(data[:8], "little"):
            break
    try:
        parse_header(data, file_size=manifest.size, where=path)
    except HeaderError as error:
        return str(error).removeprefix(f"{path}: ")
    return "it was not complete when it was added"
