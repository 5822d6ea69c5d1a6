"""Reading Git's objects through one `git cat-file`: as git sees them, in a push's quarantine too, where libgit2 is blind."""

import subprocess
from types import TracebackType
from typing import NamedTuple, Self

from git_gru.git.repository import Repository
from git_gru.git.run import GitCommandError, child_environment

_PIECE = 1 << 20


class Info(NamedTuple):
    """What an object is: its id (hex), its type, its size in bytes."""

    oid: str
    kind: str
    size: int


class CatFile:
    """A running `git cat-file`, as a context manager. Names are whatever git takes for an object, without line breaks."""

    def __init__(self, repo: Repository) -> None:
        self._process = subprocess.Popen(
            ["git", "cat-file", "--batch-command"],
            cwd=repo.top,
            env=child_environment({**repo.environment, "GIT_NO_REPLACE_OBJECTS": "1"}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def info(self, name: str) -> Info | None:
        """What the object `name` is; None where there is none."""
        return self._ask("info", name)

    def read(self, name: str, limit: int | None = None) -> bytes | None:
        """The content of the object `name`, at most its first `limit` bytes; None where there is none."""
        info = self._ask("contents", name)
        if info is None:
            return None
        stdout = self._process.stdout
        assert stdout is not None
        content = stdout.read(info.size if limit is None else min(limit, info.size))
        left = info.size - len(content) + 1  # and a line feed behind it
        while left and (piece := stdout.read(min(left, _PIECE))):
            left -= len(piece)
        return content

    def _ask(self, command: str, name: str) -> Info | None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{command} {name}\n".encode())
        stdin.flush()
        answer = stdout.readline().decode("utf-8", "replace")
        if not answer.endswith("\n"):
            raise GitCommandError(("cat-file",), self._process.wait(), "git cat-file ended early")
        words = answer.split()
        if words[-1] in ("missing", "ambiguous"):
            return None
        oid, kind, size = words
        return Info(oid, kind, int(size))
