"""Talking with a git command that answers question by question for as long as it is asked (`cat-file --batch-command`,
`check-attr --stdin`): thousands of answers from one process.
"""

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

from git_gru.git.run import GitCommandError, GitMissingError, child_environment


class Talk:
    """One such process, as a context manager. Whoever asks must read the whole answer before asking again.

    All methods raise `GitCommandError`, with what git said, once the process has ended.
    """

    def __init__(self, *args: str, cwd: Path, env: Mapping[str, str | None]) -> None:
        import subprocess

        self._args = args
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                ["git", *args],
                cwd=cwd,
                env=child_environment(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,  # Ctrl-C is for us: whoever holds the talk closes it
            )
        except FileNotFoundError as error:
            self._said.close()
            raise GitMissingError from error
        self._questions = cast("BinaryIO", self._process.stdin)
        self.answers = cast("BinaryIO", self._process.stdout)
        """The process's output, buffered; for contents too long to be held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, question: bytes) -> None:
        """Sends a question as the command wants it, its end included."""
        try:
            self._questions.write(question)
            self._questions.flush()
        except BrokenPipeError:
            raise self.ended() from None

    def line(self) -> bytes:
        """The answer's next line, without its line feed."""
        line = self.answers.readline()
        if not line.endswith(b"\n"):
            raise self.ended()
        return line[:-1]

    def bytes(self, count: int) -> bytes:
        """The answer's next `count` bytes."""
        data = self.answers.read(count)
        if len(data) < count:
            raise self.ended()
        return data

    def ended(self) -> GitCommandError:
        """The error to raise when the process gave less than was asked for."""
        self._process.kill()
        status = self._process.wait()
        self._said.seek(0)
        return GitCommandError(self._args, status, self._said.read().decode("utf-8", "replace"))

    def close(self) -> None:
        """Ends the process, in the middle of an answer too."""
        self._process.kill()
        self._process.wait()
        for stream in (self._questions, self.answers, self._said):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
