"""Models in revisions: which commit a name means, and which manifests a commit, the index or a name holds.

A *model* is found by its content (a blob that is a manifest), not by attributes: what was committed as a model stays one
when `.gitattributes` changes later. `REV:PATH` names a model, `REV:PATH#TENSOR` one of its tensors; an empty REV is the
index, as in Git.
"""

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from git_gru.errors import InputError
from git_gru.git.attributes import tracked_patterns
from git_gru.git.repository import Repository
from git_gru.git.talk import Talk
from git_gru.store.manifest import Manifest, ManifestError, is_manifest, parse_manifest
from git_gru.store.trees import TREE_MODE, TreeItem, parse_tree

__all__ = [
    "ModelName",
    "ModelReader",
    "NoModelError",
    "UnbornBranchError",
    "UnknownRevisionError",
    "index_models",
    "models_at",
    "read_model",
    "resolve_commit",
    "tracked_patterns",
]

MANIFEST_LIMIT = 64 << 20
"""Blobs over this many bytes are never read in search of manifests (a manifest takes about 67 bytes a chunk)."""

_GITLINK = b"160000"


class UnknownRevisionError(InputError):
    """A name that stands for no commit here."""


class UnbornBranchError(InputError):
    """HEAD is on a branch without a commit yet."""


class NoModelError(InputError):
    """There is no model by that name."""


@dataclass(frozen=True)
class ModelName:
    """`REV:PATH` or `REV:PATH#TENSOR`, taken apart. `rev` is empty for the index."""

    rev: str
    path: str
    tensor: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Takes `text` apart at its first colon and, after it, at its last `#`. Raises `NoModelError` without a colon."""
        rev, colon, rest = text.partition(":")
        if not colon or not rest:
            raise NoModelError(
                f"{text} does not name a model",
                hint=f"Write REV:PATH, for example HEAD:{rev or 'model.safetensors'}",
            )
        path, mark, tensor = rest.rpartition("#")
        return cls(rev, path, tensor) if mark else cls(rev, rest)

    @property
    def whole(self) -> "ModelName":
        """The same text read as a path alone, for a path that has a `#` in it."""
        return self if self.tensor is None else ModelName(self.rev, f"{self.path}#{self.tensor}")

    def __str__(self) -> str:
        return f"{self.rev}:{self.path}" + ("" if self.tensor is None else f"#{self.tensor}")


def resolve_commit(repo: Repository, rev: str) -> str:
    """The full id of the commit that `rev` names. Raises `UnbornBranchError` and `UnknownRevisionError`."""
    if not rev.startswith("-"):
        result = repo.completed("rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
        commit = result.stdout.decode().split()[-1:]
        if result.returncode == 0 and commit:
            return commit[0]
    branch = repo.git("symbolic-ref", "--quiet", "--short", "HEAD", check=False).decode().strip()
    if (
        rev in ("HEAD", "@", branch)
        and repo.completed("rev-parse", "--verify", "--quiet", "HEAD").returncode != 0
    ):
        raise UnbornBranchError(
            f"the branch {branch or 'HEAD'} has no commit yet",
            hint="Make a first commit: git add …, git commit",
        )
    raise UnknownRevisionError(
        f"{rev} names no commit in this repository",
        hint="See what there is: git branch --all, git tag, git log",
    )


def models_at(repo: Repository, rev: str) -> dict[str, Manifest]:
    """All models in the commit `rev`: path → manifest, sorted by path. Raises `ManifestError`, naming the commit."""
    commit = resolve_commit(repo, rev)
    try:
        return ModelReader(repo).models(commit)
    except ManifestError as error:
        raise ManifestError(f"in commit {commit[:10]}: {error}", hint=error.hint) from error


def index_models(repo: Repository) -> dict[str, Manifest]:
    """All models in the index (the one that Git uses now, `GIT_INDEX_FILE` included); of a conflict, our side."""
    reader = ModelReader(repo)
    found: dict[str, Manifest] = {}
    for entry in repo.git("ls-files", "--stage", "-z").split(b"\0"):
        if not entry or entry.startswith(b"160000"):
            continue
        meta, _, name = entry.partition(b"\t")
        _, blob, stage = meta.split(b" ")
        path = name.decode("utf-8", "surrogateescape")
        if stage in (b"0", b"2") and (manifest := reader.manifest(blob.decode(), path)) is not None:
            found[path] = manifest
    return found


def read_model(repo: Repository, name: str | ModelName) -> Manifest:
    """The manifest that `REV:PATH` (or a parsed name; its tensor does not count) stands for.

    Raises `NoModelError` when the path is not there or is no model, and what `resolve_commit` raises.
    """
    model = ModelName.parse(name) if isinstance(name, str) else name
    return find_model(repo, model)[1]


def find_model(repo: Repository, name: ModelName) -> tuple[ModelName, Manifest]:
    """As `read_model`; also says which reading of `name` it was: a `#` may belong to the path or start a tensor's name."""
    if name.rev:
        resolve_commit(repo, name.rev)
    for reading in dict.fromkeys((name, name.whole)):
        spec = f"{name.rev}:{reading.path}"
        result = repo.completed("rev-parse", "--verify", "--quiet", "--end-of-options", spec)
        blob = result.stdout.decode().split()[-1:]
        if result.returncode != 0 or not blob:
            continue
        manifest = ModelReader(repo).manifest(blob[0], reading.path)
        if manifest is not None:
            return reading, manifest
        raise NoModelError(
            f"{spec} is not a model: it is in Git as a plain file or folder",
            hint="Track it and add it again: git gru track PATTERN, git add --renormalize PATH",
        )
    where = name.rev or "the index"
    raise NoModelError(
        f"{where} has no file {name.path}", hint=f"List its models: git gru ls {name.rev}".rstrip()
    )


class ModelReader:
    """Reads manifests out of one repository's objects, each tree and blob once: walking a history costs what changed.

    A blob that starts as a manifest and cannot be read as one raises `ManifestError`. With `skip_unreadable` it counts as
    no model and its id is put into `unreadable` instead: one bad version must not close a whole history.
    """

    def __init__(self, repo: Repository, *, skip_unreadable: bool = False) -> None:
        self.unreadable: set[str] = set()
        self._skip_unreadable = skip_unreadable
        self._repo = repo
        self._blobs: dict[str, Manifest | None] = {}
        self._trees: dict[str, tuple[tuple[str, str], ...]] = {}

    def models(self, commit: str) -> dict[str, Manifest]:
        """All models in the tree of `commit` (a full id): path → manifest, sorted by path."""
        return {path: self._known(blob) for path, blob in sorted(self.blobs(commit))}

    def blobs(self, commit: str) -> tuple[tuple[str, str], ...]:
        """`(path, blob id)` of all models in the tree of `commit`, in the tree's order."""
        return self._tree(f"{commit}^{{tree}}")

    def manifest(self, blob: str, path: str) -> Manifest | None:
        """The manifest in the blob with id `blob`, or None when it is something else. `path` is for messages."""
        if blob not in self._blobs:
            self._blobs[blob] = self._read(blob, path)
        return self._blobs[blob]

    def _known(self, blob: str) -> Manifest:
        manifest = self._blobs[blob]
        assert manifest is not None
        return manifest

    def _read(self, blob: str, path: str) -> Manifest | None:
        _, kind, size = self._look(blob)
        if kind != "blob" or size > MANIFEST_LIMIT:
            return None
        data = self._content(blob, size)
        if not is_manifest(data):
            return None
        try:
            return parse_manifest(data, where=path)
        except ManifestError:
            if not self._skip_unreadable:
                raise
            self.unreadable.add(blob)
            return None

    def _tree(self, name: str) -> tuple[tuple[str, str], ...]:
        tree, kind, size = self._look(name)
        known = self._trees.get(tree)
        if known is None:
            content = self._content(tree, size) if kind == "tree" else b""
            known = self._trees[tree] = tuple(self._search(parse_tree(content, where=f"tree {tree}")))
        return known

    def _search(self, items: Iterable[TreeItem]) -> Iterator[tuple[str, str]]:
        for item in items:
            name, id = item.name.decode("utf-8", "surrogateescape"), item.oid.hex()
            if item.mode == TREE_MODE:
                yield from ((f"{name}/{path}", blob) for path, blob in self._tree(id))
            elif item.mode != _GITLINK and self.manifest(id, name) is not None:
                yield name, id

    @cached_property
    def _talk(self) -> Talk:
        """One git that reads all objects; in a partial clone it fetches those that are not here."""
        talk = Talk("cat-file", "--batch-command", cwd=self._repo.top, env=self._repo.environment)
        weakref.finalize(self, talk.close)
        return talk

    def _look(self, name: str) -> tuple[str, str, int]:
        """(id, kind, size) of an object; of one that is nowhere the kind is "missing"."""
        self._talk.ask(b"info %s\n" % name.encode())
        id, kind, *size = self._talk.line().decode().split(" ")
        return id, kind, int(size[0]) if size else 0

    def _content(self, id: str, size: int) -> bytes:
        self._talk.ask(b"contents %s\n" % id.encode())
        self._talk.line()
        return self._talk.bytes(size + 1)[:-1]
