"""What Git calls for tracked paths: the merge driver, the diff driver, textconv. Here as functions;
`cli/drivers.py` is where Git comes in.

Git hands a merge driver three files as they are in the repository (manifests; an empty base for add/add),
and stores what is left in ours' file as it is. What is computed depends on the operation: in a merge both
branches are meant to count, so tensors are averaged; revert, cherry-pick, rebase and stash apply a change.
Diff driver and textconv are handed whole models, as smudged into temporary files; wherever Git also names
the blob, its manifest is read instead.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from git_gru.errors import InputError, StoreError
from git_gru.git.comparing import Pair, Version
from git_gru.git.merging import ModelMerge, Rules, merge_models
from git_gru.git.pairs import VersionReader, file_version
from git_gru.git.repository import NotARepositoryError, Repository
from git_gru.ids import digest
from git_gru.store.ingest import ingest
from git_gru.store.manifest import Manifest, TensorEntry, is_manifest, parse_manifest
from git_gru.store.pipeline import Pool, ordered_map
from git_gru.store.store import Store
from git_gru.tensors.combine import WeightsError, normalised
from git_gru.tensors.strategies import STRATEGIES, strategy_named
from git_gru.tensors.summary import Summary, TensorSummary

LABELS = ("ours", "theirs")
STRATEGY_VARIABLE = "GIT_GRU_MERGE_STRATEGY"
WEIGHT_VARIABLE = "GIT_GRU_MERGE_WEIGHT"
"""How `git gru merge` hands its rules through Git to the driver."""

DIGEST_DIGITS = 12
"""Hex digits of a tensor's digest in textconv lines: enough to see a change."""


class MergeSettingError(InputError):
    """A merge strategy or weight that makes no sense."""


class EmptyModelError(InputError):
    """One side of a merge is an empty file and the other a model."""


def merge_rules(
    repo: Repository, *, merging: bool, strategy: str | None = None, weight: str | None = None
) -> Rules:
    """How this operation combines two sides.

    Apart from a merge (`merging` False) the change is applied, whatever the settings. In a merge,
    `strategy` and `weight` (theirs, from 0 to 1) count before the settings `gru.merge.strategy` and
    `gru.merge.weight`, and those before an even average. Raises `MergeSettingError`,
    `UnknownStrategyError`.
    """
    if not merging:
        return Rules(strategy=STRATEGIES["apply"], weights=(0.5, 0.5), labels=LABELS)
    name = strategy or repo.config("gru.merge.strategy") or "average"
    return Rules(
        strategy=strategy_named(name),
        weights=theirs_weight(weight or repo.config("gru.merge.weight") or "0.5"),
        labels=LABELS,
    )


def rules_environment(rules: Rules) -> dict[str, str]:
    """The environment in which a merge of two sides makes the driver follow `rules`."""
    return {STRATEGY_VARIABLE: rules.strategy.name, WEIGHT_VARIABLE: repr(rules.weights[1])}


def theirs_weight(text: str) -> tuple[float, float]:
    """The weights of ours and theirs. Raises `MergeSettingError`."""
    try:
        weight = float(text)
        ours, theirs = normalised((1 - weight, weight))
    except (ValueError, WeightsError):
        raise MergeSettingError(
            f"the merge weight {text!r} is not a number from 0 to 1",
            hint="It is the weight of the branch that is merged in: 0.5 is the mean, 1 takes theirs.",
        ) from None
    return ours, theirs


def merge_files(
    repo: Repository, base: Path, ours: Path, theirs: Path, *, path: str, rules: Rules
) -> ModelMerge:
    """Merges the three versions in these files and leaves the result's manifest in `ours`.

    Raises `ManifestError` for a manifest that was merged as text, `EmptyModelError`, and `StoreError` for
    chunks that are needed and not there; `ours` is untouched then.
    """
    store = repo.store()
    versions = [_side(store, file, path) for file in (ours, theirs)]
    for label, other, version in zip(rules.labels, reversed(rules.labels), versions, strict=True):
        if version is None:
            raise EmptyModelError(
                f"{path} is an empty file in {label} and a model in {other}",
                hint=f"Choose one: git checkout --ours -- {path}, or --theirs; then git add {path}",
            )
    merged = merge_models(store, _side(store, base, path), [side for side in versions if side], rules)
    ours.write_bytes(merged.manifest.encode())
    return merged


def _side(store: Store, file: Path, path: str) -> Manifest | None:
    """The version in a file of Git's; None for an empty one. What was committed before it was tracked is no
    manifest.
    """
    with file.open("rb") as source:
        start = source.read(64)
        if is_manifest(start):
            return parse_manifest(start + source.read(), where=path)
        source.seek(0)
        return ingest(store, source, expect_safetensors=False).manifest if start else None


def find_repository() -> Repository | None:
    """The repository that Git has started us in; None when there is none (`git diff --no-index`)."""
    try:
        return Repository.find()
    except NotARepositoryError:
        return None


def diff_pair(arguments: Sequence[str]) -> Pair:
    """The two versions that an external diff is called with (git(1), `GIT_EXTERNAL_DIFF`).

    `arguments`: path, old file, old blob, old mode, new file, new blob, new mode and, for a rename, the new
    path and a text about similarity. Raises `InputError` for another number of them.
    """
    if len(arguments) not in (7, 9):
        raise InputError("diff-driver is for Git to call", hint="Compare models with: git diff, git gru diff")
    path, old_file, old_blob, _, new_file, new_blob, _ = arguments[:7]
    new_path = arguments[7] if len(arguments) == 9 else path
    repo = find_repository()
    reader = VersionReader(repo) if repo else None
    old, new = (
        _diff_side(reader, blob, Path(file), name)
        for blob, file, name in ((old_blob, old_file, path), (new_blob, new_file, new_path))
    )
    return Pair(path=new_path, old_path=path, old=old, new=new)


def _diff_side(reader: VersionReader | None, blob: str, file: Path, path: str) -> Version | None:
    if str(file) == os.devnull or blob == ".":
        return None
    stored = reader.blob(blob, path) if reader else None
    if stored is not None:
        return stored
    if reader:
        return reader.file(file, path)
    return file_version(file, path, _no_store) if file.stat().st_size else None


def _no_store() -> Store:
    raise NotARepositoryError(
        "a manifest cannot be read outside of its repository", hint="Go to the repository's folder."
    )


@dataclass(frozen=True, kw_only=True)
class TensorLine:
    """What textconv tells of one tensor. `summary` is None where its bytes are not here (a manifest in a
    partial store).
    """

    name: str
    entry: TensorEntry
    summary: Summary | None

    @property
    def digest(self) -> str:
        """The start of the digest of the tensor's bytes (of its chunks' ids where it has several)."""
        ids = self.entry.chunks
        whole = ids[0] if len(ids) == 1 else digest("".join(ids).encode())
        return whole[:DIGEST_DIGITS]


@dataclass(frozen=True, kw_only=True)
class ModelText:
    """A model as text: its size and tensors; no tensors and a digest where it is no safetensors file."""

    size: int
    raw_digest: str | None
    metadata: dict[str, str]
    lines: tuple[TensorLine, ...]


def model_text(file: Path) -> ModelText:
    """Summarises the model in `file`: whole bytes or a manifest; of an empty file, nothing."""
    repo = find_repository()
    opened: Callable[[], Store] = cache(repo.store) if repo else _no_store
    if file.stat().st_size == 0:
        return ModelText(size=0, raw_digest=None, metadata={}, lines=())
    version = file_version(file, str(file), opened)
    manifest = version.manifest
    if manifest.raw is not None:
        whole = digest("".join(manifest.raw).encode())[:DIGEST_DIGITS]
        return ModelText(size=manifest.size, raw_digest=whole, metadata={}, lines=())

    def summarise(name: str) -> TensorLine:
        entry = manifest.tensors[name]
        summary = TensorSummary(entry.dtype)
        try:
            for index in range(len(entry.chunks)):
                summary.add(version.chunk(name, index))
        except StoreError:
            return TensorLine(name=name, entry=entry, summary=None)
        return TensorLine(name=name, entry=entry, summary=summary.result())

    try:
        metadata = version.metadata
    except StoreError:
        metadata = {}
    threads = min(4, os.cpu_count() or 1)
    with Pool(threads) as pool:
        lines = tuple(ordered_map(pool, summarise, manifest.tensors, ahead=threads * 4))
    return ModelText(size=manifest.size, raw_digest=None, metadata=metadata, lines=lines)
