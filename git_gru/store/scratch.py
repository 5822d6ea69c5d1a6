"""A store for the time of one task: for what is fetched only to be looked at."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from git_gru.store.store import Store


@contextlib.contextmanager
def scratch_store(beside: Store | None = None) -> Iterator[Store]:
    """An empty store, deleted afterwards: in the folder of the store `beside`, or where the system has temporary files."""
    place = beside.folder if beside is not None else None
    with tempfile.TemporaryDirectory(prefix="git-gru-", dir=place, ignore_cleanup_errors=True) as folder:
        scratch = Store.open(Path(folder))
        try:
            yield scratch
        finally:
            scratch.close()
