"""The state of each model in the worktree: what `git gru status` shows.

Git decides what is staged or modified (`git status`); this adds what only git-gru knows: whether the weights are there at
all, and whether a file is kept as raw chunks.
"""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from git_gru.formats.safetensors import LENGTH_BYTES, HeaderError, json_length, parse_header
from git_gru.git.attributes import tracked_files
from git_gru.git.repository import Repository
from git_gru.git.revisions import index_models
from git_gru.store.manifest import Manifest, ManifestError, is_manifest, parse_manifest


class State(StrEnum):
    """A word on a model; several can hold at once."""

    NEW = "new"  # Git does not know the file yet
    STAGED = "staged"  # the index differs from HEAD
    MODIFIED = "modified"  # the worktree differs from the index
    DELETED = "deleted"  # not in the worktree
    CONFLICT = "conflict"  # unmerged
    PLAIN = "plain"  # tracked by attributes, yet in Git as a plain file
    MANIFEST_ONLY = "manifest only"  # the worktree holds the manifest, not the weights
    RAW = "raw"  # kept as raw chunks: no safetensors, or one that does not parse
    CLEAN = "clean"


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """One model: its path, its states, its size in bytes and its number of tensors (None where it has none or is unknown)."""

    path: str
    states: tuple[State, ...]
    size: int | None
    tensors: int | None


def model_states(repo: Repository) -> list[ModelState]:
    """All tracked files of the worktree (new ones too) and all models of the index, sorted by path."""
    top = repo.require_worktree()
    staged = index_models(repo)
    tracked = tracked_files(repo, others=True)
    told = _porcelain(repo)
    return [
        _state(top / path, path, staged.get(path), told.get(path, ".."))
        for path in sorted({*tracked, *staged})
    ]


def _porcelain(repo: Repository) -> dict[str, str]:
    """Path → Git's two letters (index against HEAD, worktree against index); `??` for new files, `UU` for conflicts."""
    listed = repo.git(
        "--no-optional-locks", "status", "--porcelain=v2", "-z", "--no-renames", "--untracked-files=all",
        "--ignore-submodules=all",
    )  # fmt: skip
    found = {}
    for entry in listed.decode("utf-8", "surrogateescape").split("\0"):
        match entry[:2]:
            case "1 ":
                found[entry.split(" ", 8)[8]] = entry[2:4]
            case "u ":
                found[entry.split(" ", 10)[10]] = "UU"
            case "? ":
                found[entry[2:]] = "??"
    return found


def _state(file: Path, path: str, staged: Manifest | None, letters: str) -> ModelState:
    here = _manifest_in(file)
    states = []
    if letters == "??":
        states.append(State.NEW)
    elif letters == "UU":
        states.append(State.CONFLICT)
    else:
        if letters[0] != ".":
            states.append(State.STAGED)
        if letters[1] == "D" or not os.path.lexists(file):
            states.append(State.DELETED)
        elif letters[1] != ".":
            states.append(State.MODIFIED)
        if staged is None and letters[0] != "D" and not _is_empty(file):
            states.append(State.PLAIN)
    if here is not None:
        states.append(State.MANIFEST_ONLY)
    manifest = here or staged
    if manifest is not None and manifest.is_raw:
        states.append(State.RAW)
    if not states:
        states.append(State.CLEAN)
    if manifest is not None and State.MODIFIED not in states:
        count = None if manifest.is_raw else len(manifest.tensors)
        return ModelState(path=path, states=tuple(states), size=manifest.size, tensors=count)
    size = file.stat().st_size if file.is_file() else None
    return ModelState(path=path, states=tuple(states), size=size, tensors=_tensor_count(file))


def _is_empty(file: Path) -> bool:
    """Whether it is an empty file, which Git keeps as it is."""
    return file.is_file() and file.stat().st_size == 0


def _manifest_in(file: Path) -> Manifest | None:
    """The manifest that stands in the worktree in the model's place, if one does."""
    try:
        with file.open("rb") as data:
            head = data.read(64)
            return parse_manifest(head + data.read(), where=str(file)) if is_manifest(head) else None
    except (OSError, ManifestError):
        return None


def _tensor_count(file: Path) -> int | None:
    """How many tensors a safetensors file has by its header; None for another file."""
    try:
        with file.open("rb") as data:
            prefix = data.read(LENGTH_BYTES)
            header = prefix + data.read(json_length(prefix, where=""))
            return len(parse_header(header, file_size=os.fstat(data.fileno()).st_size, where="").tensors)
    except (OSError, HeaderError):
        return None
