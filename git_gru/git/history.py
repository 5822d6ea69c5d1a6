"""The history of each model path over all refs: what `repack` chooses deltas by.

A *lineage* is one path's versions, newest first, each once. Its *rank* says how new a version is among all: that of the newest is
0. Versions at HEAD (of every worktree) and at branch tips are to *stay plain*: they are what is checked out and cloned. Versions
whose manifest cannot be read are left out.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from git_gru.git.manifests import ManifestBlobs
from git_gru.git.needs import ALL_REFS
from git_gru.git.repository import Repository
from git_gru.git.run import lines
from git_gru.store.manifest import Manifest
from git_gru.store.stamps import Stamps

_AT_ONCE = 4096


class Lineage:
    """The versions of one path. Their manifests are read as they are asked for: all of a long history would fill the memory."""

    def __init__(self, blobs: ManifestBlobs, names: Mapping[str, bytes]) -> None:
        self._blobs = blobs
        self._names = names

    @property
    def digests(self) -> Collection[str]:
        """The digests of the versions, newest first."""
        return self._names.keys()

    def __iter__(self) -> Iterator[Manifest]:
        read = map(self._blobs.manifest, self._names.values())
        return (manifest for manifest in read if manifest is not None)


class Version(NamedTuple):
    """A model's version in the history: the commit that made it there (or, not `is_made`, replaced it), its path, its manifest's
    digest, and the blob that holds that.
    """

    commit: str
    path: str
    digest: str
    name: bytes
    is_made: bool


@dataclass(frozen=True, kw_only=True)
class History:
    """Path → lineage, that of the newest version first; digest → rank; and the digests of the models that stay plain."""

    lineages: dict[str, Lineage]
    ranks: dict[str, int]
    keep_plain: frozenset[str]


def model_history(repo: Repository, stamps: Stamps) -> History:
    """The history over HEAD and all refs (branches, tags, runs, the stash); empty before the first commit."""
    tips = _tips(repo)
    if not tips and not repo.git("rev-list", "--all", "--max-count=1"):
        return History(lineages={}, ranks={}, keep_plain=frozenset())
    blobs = ManifestBlobs(repo, stamps)
    lineages: dict[str, dict[str, bytes]] = {}
    ranks: dict[str, int] = {}
    for version in versions(repo, blobs, sorted(tips), all_refs=True):
        lineages.setdefault(version.path, {}).setdefault(version.digest, version.name)
        ranks.setdefault(version.digest, len(ranks))
    return History(
        lineages={path: Lineage(blobs, names) for path, names in lineages.items()},
        ranks=ranks,
        keep_plain=frozenset(blobs.sort(_at(repo, tips)).digests.values()),
    )


def versions(
    repo: Repository,
    blobs: ManifestBlobs,
    commits: Sequence[str],
    *,
    all_refs: bool = False,
    paths: Sequence[str] = (),
) -> Iterator[Version]:
    """Every version that a commit reachable from `commits` (and from all refs) made or replaced, newest first.

    With `paths` (pathspecs) only those there, of merged branches too. A version comes as often as commits touch it. (As replaced
    too: where history is shallow, nothing shows it being made.)
    """
    changes = _changes(repo, commits, paths, all_refs=all_refs)
    while some := list(islice(changes, _AT_ONCE)):
        digests = blobs.sort(name for *_, name, _ in some).digests
        for commit, path, name, is_made in some:
            digest = digests.get(bytes.fromhex(name))
            if digest is not None:
                yield Version(commit, path, digest, bytes.fromhex(name), is_made)


def _changes(
    repo: Repository, commits: Sequence[str], paths: Sequence[str], *, all_refs: bool
) -> Iterator[tuple[str, str, str, bool]]:
    """(commit, path, blob, whether it came or went) of everything that commits changed, newest first."""
    listed = lines(
        "log", "-z", "--raw", "--no-abbrev", "--no-renames", "--root", "--topo-order", "--diff-merges=first-parent",
        "--no-show-signature", "--no-notes", "--full-history", "--format=%x02%H", *(ALL_REFS if all_refs else ()), "--stdin",
        cwd=repo.top,
        env=repo.environment,
        input="".join(f"{word}\n" for word in (*commits, "--", *paths)).encode("utf-8", "surrogateescape"),
        end=b"\0",
    )  # fmt: skip
    commit = ""
    for token in listed:
        if token.startswith(b"\2"):
            commit = token[1:].decode()
        elif token.lstrip(b"\n").startswith(b":"):
            path = next(listed).decode("utf-8", "surrogateescape")
            before, after = token.split()[2:4]
            for blob, is_made in ((after, True), (before, False)):
                if blob.strip(b"0"):
                    yield commit, path, blob.decode(), is_made


def _at(repo: Repository, tips: Collection[str]) -> Iterator[str]:
    """The blobs in the trees of these commits."""
    listed = lines(
        "rev-list", "--objects", "--no-object-names", "--no-walk", "--missing=print", "--filter=object:type=blob", "--stdin",
        cwd=repo.top,
        env=repo.environment,
        input="".join(f"{tip}\n" for tip in sorted(tips)).encode(),
    )  # fmt: skip
    return (line.decode() for line in listed)


def _tips(repo: Repository) -> set[str]:
    """The commits at HEAD, in every worktree, and at branch tips."""
    listed = repo.git("for-each-ref", "--format=%(objectname)", "refs/heads").decode().split()
    worktrees = repo.git("worktree", "list", "--porcelain").decode("utf-8", "surrogateescape").splitlines()
    heads = [text.removeprefix("HEAD ") for text in worktrees if text.startswith("HEAD ")]
    return {commit for commit in (*listed, *heads) if set(commit) != {"0"}}
