"""Files that are in Git as they are, though the attributes of the commit make them models: committed without the filter.

They are whole, and cost their full size in Git in every version.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from git_gru.git.attributes import with_filter
from git_gru.git.manifests import ManifestBlobs
from git_gru.git.repository import Repository

_TIPS = ("refs/heads", "refs/tags", "refs/remotes")


@dataclass(frozen=True, kw_only=True)
class PlainFile:
    """One such file, and the tip at which it stands."""

    commit: str
    path: str


def plain_files(repo: Repository, blobs: ManifestBlobs) -> Iterator[PlainFile]:
    """The plain files at HEAD and at the tips of branches and tags. Of tips with the same files, the first is named."""
    seen: set[str] = set()
    for commit in _tips(repo):
        tree = repo.git("rev-parse", f"{commit}^{{tree}}").decode().strip()
        if tree not in seen:
            seen.add(tree)
            yield from (PlainFile(commit=commit, path=path) for path in _plain_in(repo, tree, blobs))


def _tips(repo: Repository) -> list[str]:
    names = "--format=%(objectname) %(*objectname) %(objecttype) %(*objecttype)"
    head = repo.git("rev-parse", "--verify", "--quiet", "HEAD^{commit}", check=False).decode().split()
    listed = [line.split() for line in repo.git("for-each-ref", names, *_TIPS).decode().splitlines()]
    # Of an annotated tag, what it stands for comes second
    commits = [words[len(words) // 2 - 1] for words in listed if words[-1] == "commit"]
    return list(dict.fromkeys([*head, *commits]))


def _plain_in(repo: Repository, tree: str, blobs: ManifestBlobs) -> list[str]:
    entries = (
        entry.partition(b"\t") for entry in repo.git("ls-tree", "-r", "-z", tree).split(b"\0") if entry
    )
    named = {
        path.decode("utf-8", "surrogateescape"): meta.split()[2].decode()
        for meta, _, path in entries
        if meta.startswith(b"100")
    }
    with tempfile.TemporaryDirectory(prefix="git-gru-") as folder:
        index = Path(folder) / "index"  # so that the tree's own attributes count, not the worktree's
        repo.git("read-tree", tree, env={"GIT_INDEX_FILE": str(index)})
        models = with_filter(repo, list(named), index=index)
    manifests = blobs.sort(named[path] for path in models).digests
    empty = repo.git("hash-object", "--stdin", input=b"").decode().strip()
    return [path for path in models if named[path] != empty and bytes.fromhex(named[path]) not in manifests]
