"""The pre-commit hook: models that are broken, or whose weights are not all numbers, are not committed by mistake."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from git_gru.errors import InputError
from git_gru.formats.safetensors import HeaderError, parse_header
from git_gru.git.attributes import with_filter
from git_gru.git.finite import nonfinite_tensors
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader
from git_gru.store.manifest import Manifest
from git_gru.store.store import Store

_NAMED = 3
"""Tensors that a refusal names of one model."""


class RefusedCommitError(InputError):
    """The pre-commit hook refuses the commit."""


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
