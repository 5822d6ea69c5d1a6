"""What a hub checks before it takes a push: that the models of the new commits are complete in its own `refs/gru/store`.

The hub keeps the store's objects among its own, under that reference, in the same trees as a `store.git`. A model is complete
when its tree is there as the push will leave it, names all chunks of the manifest and the bases that these need, and all blobs
are there. All is asked of git, which shows a hook what is in the push's quarantine.

A push of the store itself may add models. It may drop those that nothing on the hub names any more.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from git_gru.errors import InputError, StoreError
from git_gru.git.attributes import with_filter
from git_gru.git.cat_file import CatFile
from git_gru.git.needs import ALL_REFS
from git_gru.git.repository import Repository
from git_gru.git.run import lines
from git_gru.store.codec import MAX_BLOB_HEADER, inspect
from git_gru.store.manifest import (
    MAX_MANIFEST,
    PREFIX,
    Manifest,
    is_manifest,
    parse_manifest,
    stated_digest,
)
from git_gru.store.trees import DELTA_MODE, FORMAT_TEXT, TreeItem, parse_tree

STORE = "refs/gru/store"
_MOST = 10
"""How many models a refusal names."""


class RefusedPushError(InputError):
    """The hub refuses the push."""


class Update(NamedTuple):
    """One reference that a push moves: old and new object ids (hex; zeros where there is none) and its name."""

    old: str
    new: str
    ref: str

    @property
    def deletes(self) -> bool:
        """Whether the reference goes."""
        return not self.new.strip("0")


class _Model(NamedTuple):
    """A manifest in the push, and a path at which it stands."""

    path: str
    blob: str


def pre_receive(repo: Repository, updates: Iterable[str]) -> None:
    """Raises `RefusedPushError` for a push that would leave models incomplete. `updates` are the lines that git gives a hook."""
    moved = [Update(*line.split(None, 2)) for line in (line.strip() for line in updates) if line]
    store = next((update for update in moved if update.ref == STORE), None)
    before = repo.git("rev-parse", "--verify", "--quiet", STORE, check=False).decode().strip()
    state = before if store is None else "" if store.deletes else store.new
    tips = [update.new for update in moved if update.ref != STORE and not update.deletes]
    with CatFile(repo) as objects:
        check = _Check(objects, state)
        if store is not None:
            _refuse_loss(repo, objects, check, before, tips)
        if tips:
            wrong = {
                model: why for model in _new_manifests(repo, objects, tips) if (why := check.why_not(model))
            }
            models = _models_among(repo, tips, [model.path for model in wrong])
            wrong = {model: why for model, why in wrong.items() if model.path in models}
            if wrong:
                raise _refusal(wrong)


class _Check:
    """Looks at models in one state of the hub's store: `state` is its commit, empty where there is none."""

    def __init__(self, objects: CatFile, state: str) -> None:
        self._objects = objects
        self._state = state
        self._complete: set[str] = set()
        if state and objects.read(f"{state}:format", len(FORMAT_TEXT) + 1) != FORMAT_TEXT:
            raise RefusedPushError(
                f"{STORE} is no store of the format that this hub's git-gru knows",
                hint="Install the same version of git-gru on the hub and where you push from.",
            )

    def digests(self) -> set[str]:
        """The models of this state."""
        found: set[str] = set()
        for group, oid in self._folder(f"{self._state}:models") if self._state else ():
            found.update(group + rest for rest, _ in self._folder(oid))
        return found

    def why_not(self, model: _Model) -> str | None:
        """Why a model is not complete; None when it is."""
        try:
            manifest = parse_manifest(self._objects.read(model.blob) or b"", where=model.path)
            if manifest.digest not in self._complete:
                if why := self._lacking(manifest):
                    return why
                self._complete.add(manifest.digest)
        except StoreError as error:
            return str(error)
        return None

    def _lacking(self, manifest: Manifest) -> str | None:
        name, chunks = manifest.digest[:12], set(manifest.chunks())
        tree = f"{self._state}:models/{manifest.digest[:2]}/{manifest.digest[2:]}"
        content = self._objects.read(tree) if self._state else None
        if content is None:
            return f"the model {name} was not pushed"
        items = {
            item.name.decode("ascii", "replace"): item
            for item in parse_tree(content, where=f"the tree of the model {name}")
        }
        needed = chunks | {base for id, item in items.items() if (base := self._base(id, item)) is not None}
        there = {id for id, item in items.items() if self._objects.info(item.oid.hex()) is not None}
        lacking = len(needed - there)
        return f"{lacking} of {len(needed)} chunks of the model {name} were not pushed" if lacking else None

    def _base(self, id: str, item: TreeItem) -> str | None:
        if item.mode != DELTA_MODE:
            return None
        head = self._objects.read(item.oid.hex(), MAX_BLOB_HEADER)
        return None if head is None else inspect(head, where=f"chunk {id[:12]}").base

    def _folder(self, name: str) -> Iterator[tuple[str, str]]:
        content = self._objects.read(name) or b""
        return (
            (item.name.decode("ascii", "replace"), item.oid.hex()) for item in parse_tree(content, where=name)
        )


def _new_manifests(repo: Repository, objects: CatFile, tips: Sequence[str]) -> Iterator[_Model]:
    """The texts that begin as manifests, among the blobs that the push brings."""
    for name, path in _blobs(repo, tips, "--not", *ALL_REFS):
        if is_manifest(_beginning(objects, name, len(PREFIX))):
            yield _Model(path or name, name)


def _refuse_loss(repo: Repository, objects: CatFile, check: _Check, before: str, tips: Sequence[str]) -> None:
    """Raises `RefusedPushError` for a push of the store that drops models which the hub's references name after it."""
    gone = _Check(objects, before).digests() - check.digests()
    if not gone:
        return
    for name, path in _blobs(repo, tips, *ALL_REFS):
        if is_manifest(_beginning(objects, name, len(PREFIX))):
            digest = stated_digest(objects.read(name) or b"")
            if digest in gone:
                raise RefusedPushError(
                    f"the push would drop models from {STORE} that are needed here, {path or name} ({digest[:12]}) among them",
                    hint="Fetch, and push again with git-gru: it puts your models on top of those that are here.",
                )


def _blobs(repo: Repository, tips: Sequence[str], *arguments: str) -> Iterator[tuple[str, str]]:
    """(blob, a path of it) of what rev-list reaches; also some other objects, without a path."""
    listed = lines(
        "rev-list", "--objects", "--filter=object:type=blob", "--stdin", *arguments,
        cwd=repo.top,
        env=repo.environment,
        input="".join(f"{tip}\n" for tip in tips).encode(),
    )  # fmt: skip
    for line in listed:
        name, _, path = line.decode("utf-8", "surrogateescape").partition(" ")
        yield name, path


def _beginning(objects: CatFile, name: str, length: int) -> bytes:
    info = objects.info(name)
    fits = info is not None and info.kind == "blob" and length < info.size <= MAX_MANIFEST
    return (objects.read(name, length) or b"") if fits else b""


def _models_among(repo: Repository, tips: Sequence[str], paths: Sequence[str]) -> set[str]:
    """Those of `paths` that the attributes of any tip make models: a text in a manifest's form may be anything else."""
    found: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        for number, tip in enumerate(tips):
            index = Path(folder) / str(number)
            if repo.completed("read-tree", tip, env={"GIT_INDEX_FILE": str(index)}).returncode == 0:
                found.update(with_filter(repo, paths, index=index))
    return found


def _refusal(wrong: dict[_Model, str]) -> RefusedPushError:
    listed = [f"\n  {model.path}: {why}" for model, why in wrong.items()]
    more = f"\n  and {len(listed) - _MOST} more" if len(listed) > _MOST else ""
    return RefusedPushError(
        f"refused, because models of these commits are not complete here:{''.join(listed[:_MOST])}{more}",
        hint="Push with git-gru installed (git gru install) and without --no-verify: it brings the models before the branch.",
    )
