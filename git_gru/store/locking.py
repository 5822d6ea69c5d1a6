"""The locks of a store, files that processes `flock`: a lock goes with its holder, however that ends.

- `lock`: shared by writers, alone by whoever deletes or replaces.
- `turn.lock`: held by maintenance while it waits for `lock`; writers let it pass first, for a moment, since writers that come in
  turns would never leave it a gap.
- `repack.lock`: held by the one rewrite that may run.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from git_gru.errors import InputError
from git_gru.store.packs import no_room

_COURTESY = 1.0
"""Seconds for which a writer lets waiting maintenance pass."""


class RewriteRunningError(InputError):
    """Another repack, collection or check of the same store is under way."""


@contextlib.contextmanager
def store_lock(folder: Path, *, alone: bool) -> Iterator[None]:
    """Holds the lock of the store in `folder`. One that cannot be written can be held shared: what it has is known without
    writing anything.
    """
    with contextlib.ExitStack() as files:
        try:
            turn = files.enter_context(_open(folder / "turn.lock", alone=alone))
            lock = files.enter_context(_open(folder / "lock", alone=alone))
        except OSError as error:
            raise no_room(error, folder) from error
        if alone:
            fcntl.flock(turn, fcntl.LOCK_EX)
            fcntl.flock(lock, fcntl.LOCK_EX)
        else:
            _let_pass(turn)
            fcntl.flock(lock, fcntl.LOCK_SH)
        turn.close()
        yield


def _open(path: Path, *, alone: bool) -> BinaryIO:
    """The lock's file, made where it does not exist."""
    may_write = alone or os.access(path, os.W_OK) or not path.exists()
    return open(path, "ab" if may_write else "rb")


def _let_pass(turn: BinaryIO) -> None:
    """Waits while maintenance waits for the lock, but not for long: it may wait for whoever waits for us."""
    patience = time.monotonic() + _COURTESY
    while time.monotonic() < patience:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(turn, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        time.sleep(0.002)


@contextlib.contextmanager
def one_at_a_time(folder: Path, *, to_read: bool = False) -> Iterator[None]:
    """Keeps others from rewriting the store in `folder`. Raises `RewriteRunningError` while one does.

    Who only wants `to_read` does without the lock's file where there is none and none can be made: nobody holds it.
    """
    with contextlib.ExitStack() as files:
        try:
            lock = files.enter_context(_open(folder / "repack.lock", alone=not to_read))
        except OSError as error:
            if not to_read:
                raise no_room(error, folder) from error
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RewriteRunningError(
                "another repack, collection or check of this store is under way",
                hint="It may be the maintenance in the background: wait for it, then run the command again.",
            ) from None
        yield
