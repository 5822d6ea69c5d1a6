"""The working folder of a run, `<common dir>/gru/runs/<id>/`, and who is at work in it.

Two files in it are locks, held by `flock`, so that they go with their holder however it ends:

- `launcher.lock`: the process that started the run, or resumed it. A run whose lock is there and free has lost its launcher.
- `worker.lock`: the worker that commits. After a launcher's death it may live a moment longer.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from git_gru.errors import InputError
from git_gru.git.repository import Repository

LAUNCHER, WORKER = "launcher.lock", "worker.lock"
STOP = "stop"
"""The file whose being there asks the workers to stop after the current step."""

AGENT_LOG, LAUNCHER_LOG = "agent.log", "launcher.log"
"""What the agent prints, and what the launcher of a detached run does."""
_PAUSE = 0.02


class RunBusyError(InputError):
    """Another process is at work on the run."""


def run_folder(repo: Repository, run: str) -> Path:
    """The working folder of a run, whether or not it is there."""
    return repo.gru_dir / "runs" / run


@contextlib.contextmanager
def hold(folder: Path, name: str, *, patience: float = 0.5) -> Iterator[None]:
    """Holds a lock of the folder, which is made if need be. Raises `RunBusyError` when it is not free within `patience` s."""
    until = time.monotonic() + patience
    while (lock := _taken(folder, name)) is None:
        if time.monotonic() > until:
            raise RunBusyError(
                f"another process is at work on the run {folder.name}",
                hint=f"See: git gru runs show {folder.name}",
            )
        time.sleep(_PAUSE)
    with lock:
        yield


def _taken(folder: Path, name: str) -> BinaryIO | None:
    """The lock, held; None while another holds it, or has just removed it with the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as opened:
        try:
            lock = opened.enter_context(open(folder / name, "ab"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock.fileno()).st_ino != (folder / name).stat().st_ino:
                return None
        except (BlockingIOError, FileNotFoundError):
            return None
        opened.pop_all()
        return lock


def is_held(folder: Path, name: str) -> bool | None:
    """Whether a process holds the lock; None where there is no such lock."""
    try:
        with open(folder / name, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return True
    return False


def log_files(folder: Path) -> dict[str, Path]:
    """What the processes of a run print, by the names that its record uses: `agent.log`, `rank-0.stderr.log`, …"""
    found = {name: folder / name for name in (LAUNCHER_LOG, AGENT_LOG) if (folder / name).exists()}
    for path in sorted(folder.glob("logs/*/attempt_*/*/*.log")):
        found[f"rank-{path.parent.name}.{path.name}"] = path
    return found
