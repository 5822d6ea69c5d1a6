"""Running git as a child process.

One function, `git`, with three promises: arguments go straight to the program (no shell), what git says on stderr becomes
part of the error, and messages come in English whatever the user's locale is, so that a caller may look at them.

The child inherits this process's environment; `env` adds to it, and a value of None takes a variable away.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from git_gru.errors import GruError, MachineError

if TYPE_CHECKING:
    import subprocess

Environment = Mapping[str, str | None]

LOCAL_VARIABLES: Environment = dict.fromkeys(
    (
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_CONFIG",
        "GIT_CONFIG_COUNT",
        "GIT_CONFIG_PARAMETERS",
        "GIT_DIR",
        "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_INTERNAL_SUPER_PREFIX",
        "GIT_NAMESPACE",
        "GIT_NO_REPLACE_OBJECTS",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_QUARANTINE_PATH",
        "GIT_REPLACE_REF_BASE",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    )
)
"""What ties a git process to one repository (`git rev-parse --local-env-vars`); as `env` it unties the child."""


PIPE_BYTES = 1 << 20
"""What a pipe that many bytes pass is asked to hold; Linux's default of 64 KiB makes its two ends take turns."""

_AT_ONCE = 1 << 16
"""Bytes that are read from a pipe at once."""


class GitCommandError(GruError):
    """A git command failed; the message is what git said."""

    def __init__(self, args: tuple[str, ...], returncode: int, stderr: str) -> None:
        said = _sentence(stderr) or f"exit status {returncode}"
        super().__init__(f"git {_verb(args)} failed: {said}")
        self.command = args
        self.returncode = returncode
        self.stderr = stderr


class GitMissingError(MachineError):
    """There is no git program on this machine's PATH."""

    def __init__(self) -> None:
        super().__init__("the program git was not found", hint="Install Git 2.38 or later and try again.")


def child_environment(changes: Environment | None = None) -> dict[str, str]:
    """This process's environment with `changes` applied (None removes), for a child process."""
    environment = {**os.environ, "LC_ALL": "C", "LANGUAGE": "C"}
    for name, value in (changes or {}).items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return environment


def start_apart(program: Sequence[str], *, cwd: Path, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Starts a program that outlives whoever started it: no terminal, none of Git's pipes, no variable that ties it to a git
    command under way. What it prints goes to `log`.
    """
    import subprocess

    return subprocess.Popen(
        program,
        cwd=cwd,
        env=child_environment(LOCAL_VARIABLES),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def is_running(process: int) -> bool:
    """Whether a process of this machine, by its id, has not ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def widen(pipe: int) -> None:
    """Asks that a pipe hold `PIPE_BYTES`; on files, terminals and other systems nothing happens."""
    try:
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except (ImportError, AttributeError, OSError):
        pass


def inherited(name: str) -> bool:
    """Whether a child process would see the environment variable `name`."""
    return name in os.environ


def git(
    *args: str,
    cwd: Path | None = None,
    input: bytes | None = None,
    env: Environment | None = None,
    check: bool = True,
) -> bytes:
    """Run `git ARGS` and return its stdout.

    With `check=False` a failure returns whatever came on stdout. Raises `GitCommandError` (exit status and stderr in it)
    and `GitMissingError`.
    """
    return completed(*args, cwd=cwd, input=input, env=env, check=check).stdout


def completed(
    *args: str,
    cwd: Path | None = None,
    input: bytes | None = None,
    env: Environment | None = None,
    check: bool = False,
) -> "subprocess.CompletedProcess[bytes]":
    """As `git`, for callers who need the exit status or stderr as well."""
    import subprocess  # late: a filter runs git only where it must

    try:
        result = subprocess.run(
            ["git", *args],
            cwd=cwd,
            input=input or b"",
            env=child_environment(env),
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        if cwd is not None and not cwd.is_dir():
            raise GitCommandError(args, 128, f"no such folder: {cwd}") from error
        raise GitMissingError from error
    if check and result.returncode != 0:
        raise GitCommandError(args, result.returncode, result.stderr.decode("utf-8", "replace"))
    return result


def lines(
    *args: str,
    cwd: Path | None = None,
    input: bytes = b"",
    env: Environment | None = None,
    end: bytes = b"\n",
) -> Iterator[bytes]:
    """What `git ARGS` says, as it comes, cut at each `end`: for output that may be too long for memory.

    git must read all of `input` before it writes. Raises as `git` does, after the last line.
    """
    import subprocess
    import tempfile

    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                ["git", *args],
                cwd=cwd,
                env=child_environment(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        except FileNotFoundError as error:
            raise GitMissingError from error
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(input)
                process.stdin.close()
            rest = b""
            while piece := os.read(process.stdout.fileno(), _AT_ONCE):
                *whole, rest = (rest + piece).split(end)
                yield from whole
            if rest:
                yield rest
        if process.returncode != 0:
            said.seek(0)
            raise GitCommandError(args, process.returncode, said.read().decode("utf-8", "replace"))


def _verb(args: tuple[str, ...]) -> str:
    """The sub-command in `args`, past options like `-c name=value`."""
    skip = False
    for arg in args:
        if skip:
            skip = False
        elif arg in ("-c", "-C"):
            skip = True
        elif not arg.startswith("-"):
            return arg
    return " ".join(args)


def _sentence(stderr: str) -> str:
    """Git's own complaint, its `fatal:` and `error:` lines without the prefix, after what git-gru's filter said as its
    cause; or else all it said.
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = [line.partition(": ")[2] for line in lines if line.startswith(("git-gru: ", "fatal: ", "error: "))]
    return "; ".join(told or lines)
