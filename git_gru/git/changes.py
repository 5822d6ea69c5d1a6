"""What commits did to models, read from `git log`.

A *change* is a commit with the model paths whose manifest it changed against its first parent. Blobs that are no
manifests are looked at once each and left out. A manifest that cannot be read (hand-edited, merged as text by a host) is
part of history for good: it is told of as `unreadable`, never an error.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader
from git_gru.runs.trailers import read_metrics, read_trailers
from git_gru.store.manifest import Manifest

_FIELD = "\x02"  # between the fields of a commit; no field but the last can hold it
_FORMAT = "--format=%x02%H%x02%P%x02%at%x02%an%x02%B"


@dataclass(frozen=True, kw_only=True)
class PathChange:
    """One path of a change. `before` is None for a model that is new there, `after` for one that is gone.

    Both are None as well for a manifest that cannot be read; `unreadable` says so of each.
    """

    path: str
    before: Manifest | None
    after: Manifest | None
    unreadable: tuple[bool, bool] = (False, False)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One commit that touches models. `time` is the author's, in seconds since 1970."""

    commit: str
    parents: tuple[str, ...]
    time: int
    author: str
    message: str
    paths: tuple[PathChange, ...]

    @property
    def subject(self) -> str:
        """The message's first line."""
        return self.message.partition("\n")[0]

    @property
    def trailers(self) -> dict[str, str]:
        """The `Gru-…` trailers of the message."""
        return read_trailers(self.message)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics that a training run wrote into the message: name -> value."""
        return read_metrics(self.trailers)


def changes(
    repo: Repository,
    revisions: Sequence[str],
    *,
    paths: Sequence[str] = (),
    reader: ModelReader | None = None,
) -> Iterator[Change]:
    """The changes reachable from `revisions` (arguments of git log), newest first; of `paths` only, if there are any.

    `reader` must be one that skips what is unreadable.
    """
    reader = reader or ModelReader(repo, skip_unreadable=True)
    listed = repo.git(
        "log", "-z", "--raw", "--no-abbrev", "--no-renames", "--root", "--topo-order", "--diff-merges=first-parent",
        "--no-show-signature", "--no-notes", "--no-color", _FORMAT, *revisions, "--", *paths,
    )  # fmt: skip
    fields: list[str] | None = None
    touched: list[PathChange] = []
    tokens = iter(listed.decode("utf-8", "surrogateescape").split("\0"))
    for token in tokens:
        if token.startswith(_FIELD):
            if fields is not None and touched:
                yield _change(fields, touched)
            fields, touched = token.split(_FIELD, 5)[1:], []
        elif token.lstrip("\n").startswith(":"):
            path = next(tokens)
            blobs = token.split()[2:4]
            before, after = (_manifest(reader, blob, path) for blob in blobs)
            unreadable = (blobs[0] in reader.unreadable, blobs[1] in reader.unreadable)
            if before is not None or after is not None or any(unreadable):
                touched.append(PathChange(path=path, before=before, after=after, unreadable=unreadable))
    if fields is not None and touched:
        yield _change(fields, touched)


def _change(fields: Sequence[str], touched: Sequence[PathChange]) -> Change:
    commit, parents, time, author, message = fields
    return Change(
        commit=commit, parents=tuple(parents.split()), time=int(time), author=author, message=message.strip("\n"),
        paths=tuple(touched),
    )  # fmt: skip


def _manifest(reader: ModelReader, blob: str, path: str) -> Manifest | None:
    return None if set(blob) == {"0"} else reader.manifest(blob, path)
