"""`git-gru hook NAME`: what the hook stubs call. No click here: a commit waits for it."""

import sys
from collections.abc import Callable, Mapping, Sequence

from git_gru.errors import InputError
from git_gru.git.pre_commit import pre_commit
from git_gru.git.repository import Repository


def _pre_commit(repo: Repository, arguments: Sequence[str]) -> None:
    pre_commit(repo)


def _pre_push(repo: Repository, arguments: Sequence[str]) -> None:
    """Called with the remote's name and address; a line on stdin for each reference: its local name and commit, the remote's."""
    from git_gru.cli.progress import bytes_progress
    from git_gru.git.publishing import RefUpdate, publish_updates
    from git_gru.git.transport import shown

    name, url = arguments
    lines = [line.split(" ") for line in sys.stdin.read().splitlines() if line.strip()]
    updates = [RefUpdate(local=fields[1], ref=fields[2]) for fields in lines]
    publish_updates(repo, name, url, updates, progress=bytes_progress(f"sending models to {shown(name)}"))


def _pre_receive(repo: Repository, arguments: Sequence[str]) -> None:
    from git_gru.git.receiving import pre_receive

    pre_receive(repo, sys.stdin)


HOOKS: dict[str, Callable[[Repository, Sequence[str]], None]] = {
    "pre-commit": _pre_commit,
    "pre-push": _pre_push,
    "pre-receive": _pre_receive,
}


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs the hook `argv[0]` in the repository that Git called it for; a refusal is raised."""
    hook = HOOKS.get(argv[0]) if argv else None
    if hook is None:
        raise InputError(
            f"no such hook: {' '.join(argv) or '(none)'}", hint="Write the stubs anew: git gru install"
        )
    hook(Repository.find(), argv[1:])
    return 0
