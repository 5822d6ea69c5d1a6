"""The one place where exceptions become text and exit codes (docs/exit-codes.md).

An expected error is a sentence on stderr, `git gru: …`, with `hint: …` under it. What the operating system refuses (disk
full, no permission) is put into such a sentence. Anything else is a bug: its traceback goes to a log file in
`$XDG_STATE_HOME/git-gru/` and the user is told where.

The light commands that Git itself starts (filter, hooks, drivers) go through here as well, so nothing heavy is imported.
"""

import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from git_gru.errors import GruError, MachineError

BUG = 3
INTERRUPTED = 130

_REFUSALS = {
    errno.ENOSPC: ("the disk is full", "Free some space and try again; nothing that was committed is lost."),
    errno.EDQUOT: (
        "the disk quota is used up",
        "Free some space and try again; nothing that was committed is lost.",
    ),
    errno.EFBIG: (
        "a file would grow over the limit that this system sets",
        "See the limit with ulimit -f, and the largest file that the disk's format takes.",
    ),
    errno.EROFS: ("the file system is read-only", "Work in a folder that can be written."),
    errno.EACCES: ("permission denied", "Check who owns the file and its folder."),
    errno.EPERM: ("operation not permitted", "Check who owns the file and its folder."),
    errno.EMFILE: ("too many open files", "Raise the limit: ulimit -n 4096"),
    errno.ENOMEM: ("out of memory", "Close other programs, or use a machine with more memory."),
    errno.EIO: ("the disk reports an input/output error", "Check the disk and the system's log."),
}

_CONTROLS = {chr(code): f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_CONTROLS |= {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_SQLITE = ("disk is full", "readonly database", "disk I/O error", "unable to open database")


def guarded(action: Callable[[], int | None], environ: Mapping[str, str], *, name: str = "git gru") -> int:
    """Runs `action`; returns its exit status, or tells what went wrong and returns the exit code for that."""
    try:
        return action() or 0
    except KeyboardInterrupt:
        say("interrupted", name=name)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone (`git gru log | head`): not worth a word. Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return tell(error, environ, name=name)


def tell(error: Exception, environ: Mapping[str, str], *, name: str = "git gru", about: str = "") -> int:
    """Writes the sentence for `error` to stderr and returns its exit code. `about` names the file concerned, if any."""
    expected = error if isinstance(error, GruError) else machine_error(error)
    if expected is None:
        log = _log_bug(error, environ)
        where = f"; the details are in {log}" if log else ""
        say(f"this is a bug in git-gru: {type(error).__name__}: {error}{where}", name=name, about=about)
        return BUG
    say(str(expected), name=name, about=about)
    if expected.hint:
        print(printable(f"hint: {expected.hint}", keep="\n"), file=sys.stderr, flush=True)
    return expected.exit_code


def say(text: str, *, name: str = "git gru", about: str = "") -> None:
    """One sentence (or a few lines) on stderr."""
    prefix = f"{name}: {about}: " if about and not text.startswith(about) else f"{name}: "
    print(printable(prefix + text, keep="\n"), file=sys.stderr, flush=True)


def printable(text: str, *, keep: str = "") -> str:
    r"""`text` with visible escapes such as `\x1b` for what a terminal would obey or could not show.

    These are control characters (C0, DEL, C1; those in `keep` stay) and bytes that were not UTF-8 (surrogates, in file
    names). All that is printed comes through here: tensor names, metadata and messages may be a stranger's.
    """
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(_CONTROLS.get(c, c) if c not in keep else c for c in shown)


def machine_error(error: BaseException) -> MachineError | None:
    """What the operating system refused, as a sentence; None when `error` is nothing of that kind."""
    if isinstance(error, MemoryError):
        reason, hint = _REFUSALS[errno.ENOMEM]
        return MachineError(reason, hint=hint)
    if type(error).__module__ == "sqlite3":  # the lookup cache; not imported here for its name alone
        if not any(text in str(error) for text in _SQLITE):
            return None
        hint = "Free some space, or check who owns .git/gru; the cache is rebuilt whenever it is missing."
        return MachineError(f"the store's lookup cache cannot be used: {error}", hint=hint)
    if not isinstance(error, OSError) or error.errno not in _REFUSALS:
        return None
    reason, hint = _REFUSALS[error.errno]
    return MachineError(f"{reason}: {error.filename}" if error.filename else reason, hint=hint)


def _log_bug(error: Exception, environ: Mapping[str, str]) -> Path | None:
    """Writes a new log file with the traceback; None if even that fails."""
    import platform
    import time
    import traceback

    from git_gru import __version__

    state = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "~"), ".local", "state"))
    folder = Path(state).expanduser() / "git-gru"
    log = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    lines: Sequence[str] = (
        f"git-gru {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"command: {sys.argv}",
        f"folder: {Path.cwd()}",
        "",
        "".join(traceback.format_exception(error)),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log.write_text("\n".join(lines), encoding="utf-8", errors="backslashreplace")
    except OSError:
        traceback.print_exception(error)
        return None
    return log
