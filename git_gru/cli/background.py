"""Starting maintenance in the background, from the commands after which it may be due. Light: the filter ends with this."""

import contextlib
import sqlite3
import sys

from git_gru.errors import GruError
from git_gru.git.repository import Repository
from git_gru.store.store import Store
from git_gru.store.upkeep import Upkeep

_PROGRAM = (sys.executable, "-P", "-m", "git_gru", "maintenance", "--background")


def start_maintenance_if_due(repo: Repository, store: Store) -> None:
    """Asks whether maintenance is due, by a few numbers, and starts it. What goes wrong is no failure of the caller's."""
    with contextlib.suppress(GruError, OSError, sqlite3.Error):
        if Upkeep(store.lookup).is_due():
            from git_gru.git.maintenance import start_if_due

            start_if_due(repo, store, _PROGRAM)
