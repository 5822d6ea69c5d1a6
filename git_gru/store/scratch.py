"""A store for the time of one task: for what is fetched only to be looked at."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from git_gru.store.store import Store


@contextlib.contextmanager
def scratch_store(beside: Store | None = None) -> Iterator[Store]:
    """An empty store, deleted afterwards: in the folder of the store `beside`, or where the system has temporary files."""
    folder = Path(tempfile.mkdtemp(prefix="scratch-", dir=beside.folder if beside is not None else None))
    scratch = Store.open(folder)
    try:
        yield scratch
    finally:
        scratch.close()
        shutil.rmtree(folder, ignore_errors=True)
