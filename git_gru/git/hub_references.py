"""All references of a hub, for whoever must know what they reach.

They are fetched into a repository of their own, in a temporary folder: the user's gets no references that keep anything or that
another process may take away, and a killed process leaves nothing there. A full clone's objects are used where they are. Those of
a shallow or partial clone are not: what such a clone lacks it would take for history that ends, and for models that nobody needs.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from git_gru.git.partial import promisors
from git_gru.git.repository import Repository
from git_gru.git.run import completed, git
from git_gru.git.transport import transport_environment

_SPECS = ("+refs/*:refs/*", "^refs/gru/store", "^refs/gru/remotes/*")
"""A hub's own store is no part of what its references need."""


@contextmanager
def hub_references(repo: Repository, name: str, url: str) -> Iterator[Repository]:
    """A repository that has the references of the remote `name` at `url`, and all objects that they reach.

    Raises `GitCommandError` when the remote cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="git-gru-hub-", ignore_cleanup_errors=True) as folder:
        git("init", "--quiet", "--bare", "--object-format=sha1", "--template=", folder)
        if _is_whole(repo):
            Path(folder, "objects/info").mkdir(exist_ok=True)
            Path(folder, "objects/info/alternates").write_text(f"{repo.common_dir / 'objects'}\n")
        environment = {**transport_environment(repo, Path(folder), name), "GIT_DIR": folder}
        at = ("-c", f"remote.gru.url={url}")
        listed = completed(*at, "ls-remote", "gru", "HEAD", env=environment, check=True).stdout
        # Whoever works in the hub may have checked out a commit that no branch has
        head = ["+HEAD:refs/gru/head"] if b"\tHEAD\n" in listed else []
        # Without --update-shallow the references of a shallow hub are left out, and that is no error to git
        git(
            *(
                *at,
                "-c",
                "gc.auto=0",
                "-c",
                "maintenance.auto=false",
                "-c",
                "fetch.fsckObjects=false",
                "fetch",
                "--quiet",
            ),
            *(
                "--update-shallow",
                "--no-tags",
                "--no-write-fetch-head",
                "--recurse-submodules=no",
                "gru",
                *_SPECS,
                *head,
            ),
            env=environment,
        )
        yield Repository(None, Path(folder), Path(folder), environment)


def _is_whole(repo: Repository) -> bool:
    """Whether the repository has all objects that its references reach: it is neither a shallow nor a partial clone."""
    return not (promisors(repo) or (repo.common_dir / "shallow").exists())
