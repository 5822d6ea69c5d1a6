"""`git-gru filter-process`: the filter, started by Git (`filter.gru.process`). No click here: start-up time is felt."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence

from git_gru.cli.background import start_maintenance_if_due
from git_gru.cli.boundary import say, tell
from git_gru.errors import InputError
from git_gru.git.filter_process import serve
from git_gru.git.pktline import EndOfStreamError, ProtocolError
from git_gru.git.run import PIPE_BYTES


class _Stderr:
    """Tells the user about files on stderr, which Git leaves connected to the terminal."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def warn(self, path: str, text: str) -> None:
        say(text, name="git-gru", about=path)

    def failed(self, path: str, error: Exception) -> None:
        tell(error, self._environ, name="git-gru", about=path)

    def bringing(self, models: int, size: int) -> Callable[[int, int], None] | None:
        if not sys.stderr.isatty():
            return None
        from git_gru.cli.progress import bytes_progress

        return bytes_progress(f"fetching {models} model{'s' if models > 1 else ''}")


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serves Git on stdin and stdout until Git is done. `GIT_GRU_SKIP_SMUDGE=1` leaves manifests in the worktree."""
    if argv or sys.stdin.isatty():
        raise InputError(
            "filter-process is for Git to call, over a pipe",
            hint="Set it up with: git gru install, git gru track PATTERN",
        )
    skip = environ.get("GIT_GRU_SKIP_SMUDGE", "0") not in ("", "0", "false")
    answers = os.dup(sys.stdout.fileno())
    # whatever a library may print does not get among the packets
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        with open(sys.stdin.fileno(), "rb", buffering=PIPE_BYTES, closefd=False) as stdin:
            changed = serve(stdin, answers, _Stderr(environ), skip_smudge=skip)
        if changed is not None:
            start_maintenance_if_due(*changed)
    except EndOfStreamError:
        return 1  # Git has died or was interrupted; it has no use for a message
    except ProtocolError as error:
        raise InputError(f"whoever called filter-process is not Git: {error}") from error
    return 0
