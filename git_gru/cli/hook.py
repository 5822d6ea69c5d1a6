"""`git-gru hook NAME`: what the hook stubs call. No click here: a commit waits for it."""

import sys
from collections.abc import Callable, Mapping, Sequence

from git_gru.errors import InputError
from git_gru.git import hooks
from git_gru.git.repository import Repository


def _pre_receive(repo: Repository) -> None:
    from git_gru.git.receiving import pre_receive

    pre_receive(repo, sys.stdin)


HOOKS: dict[str, Callable[[Repository], None]] = {"pre-commit": hooks.pre_commit, "pre-receive": _pre_receive}


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs the hook `argv[0]` in the repository that Git called it for; a refusal is raised."""
    hook = HOOKS.get(argv[0]) if argv else None
    if hook is None:
        raise InputError(
            f"no such hook: {' '.join(argv) or '(none)'}", hint="Write the stubs anew: git gru install"
        )
    hook(Repository.find())
    return 0
