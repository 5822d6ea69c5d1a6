"""Which models the user's repository needs: those whose manifests anything in it names.

Looked at are all references of all worktrees, all reflogs, all indexes, and operations under way (`roots`). What Git names and
does not have here (a partial clone) counts as `absent`, unless its name is that of a manifest which the cache knows. A text that
begins as a manifest and is none is not to be trusted: it keeps all that it may mean.
"""

from collections.abc import Collection, Iterable, Iterator

from git_gru.git.manifests import ManifestBlobs
from git_gru.git.repository import Repository
from git_gru.git.roots import adding_since, index_blobs, state_words
from git_gru.git.run import LOCAL_VARIABLES, lines
from git_gru.store.collect import Needs
from git_gru.store.stamps import Stamps

ALL_REFS = ("--exclude=refs/gru/store", "--exclude=refs/gru/remotes/*", "--all")
"""Arguments of rev-list and log: all references. A hub's own store is no part of what its branches need."""


def find_needs(repo: Repository, stamps: Stamps) -> Needs:
    """What the repository needs of its store. Raises `UnreadableIndexError`, and `GitCommandError` where objects are lost."""
    adding = adding_since(repo)
    blobs = ManifestBlobs(repo, stamps)
    # What moves from an index into a commit meanwhile is seen in the first look, what moves the other way in the last.
    found = [
        blobs.sort(index_blobs(repo)),
        blobs.sort(_reachable(repo, _resolved(repo, state_words(repo)))),
        blobs.sort(index_blobs(repo)),
    ]
    return Needs(
        digests=frozenset().union(
            *(part.digests.values() for part in found), *(part.suspects for part in found)
        ),
        absent=sum(part.absent for part in found),
        adding_since=adding,
        in_git=blobs.has,
    )


def named_objects(repo: Repository) -> Iterator[str]:
    """The ids of all objects that may be manifests and that the repository names; `?` before those not here.

    Raises `UnreadableIndexError`, and `GitCommandError` where objects are lost.
    """
    yield from index_blobs(repo)
    yield from _reachable(repo, _resolved(repo, state_words(repo)))


def models_named_by(repo: Repository, stamps: Stamps) -> tuple[frozenset[str], int]:
    """The digests of the models that the references of a repository reach, and how many objects are not there."""
    found = ManifestBlobs(repo, stamps).sort(_reachable(repo, (), *ALL_REFS))
    return frozenset(found.digests.values()) | found.suspects, found.absent


def _resolved(repo: Repository, words: Iterable[str]) -> set[str]:
    """The full ids of the objects that `words` name; a word that names none, or several, is left out."""
    found = set()
    for word in words:
        try:
            found.add(str(repo.pygit2.expand_id(word) if len(word) < 40 else repo.pygit2[word].id))
        except (KeyError, ValueError):
            continue
    return found


def _reachable(repo: Repository, roots: Collection[str], *chosen: str) -> Iterator[str]:
    """The ids of all blobs (and some other objects) that references, reflogs and `roots` reach; `?` before those not here.

    `chosen` (options of rev-list) takes the place of all references and reflogs.
    """
    listed = lines(
        "rev-list", "--objects", "--no-object-names", "--missing=print", "--filter=object:type=blob",
        *(chosen or (*ALL_REFS, "--reflog")), "--stdin",
        cwd=repo.common_dir,
        input="".join(f"{root}\n" for root in sorted(roots)).encode(),
        env={**LOCAL_VARIABLES, "GIT_DIR": str(repo.common_dir), "GIT_NO_REPLACE_OBJECTS": "1"},
    )  # fmt: skip
    for line in listed:
        yield line.decode()
