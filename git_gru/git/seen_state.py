"""The state of a remote that was seen last: a reference of the store, and where the history that it has ends here.

Git keeps both: `refs/gru/remotes/<name>`, and the file `shallow`, which names the commits whose parents are not here. What is
written to them is written as git does it, by way of its own locks.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from git_gru.errors import StoreError
from git_gru.store.bare import read_ref
from git_gru.store.packs import no_room
from git_gru.store.store import Store

_ENDS = 16
"""Lines of the file `shallow` beyond which those are looked for that are of no use any more: each look adds one."""

_SHALLOW = "shallow"


class SeenState:
    """The reference `ref` of `store`."""

    def __init__(self, store: Store, ref: str) -> None:
        self.ref = ref
        self._store = store
        self._ends = store.repository / _SHALLOW

    def is_unknown(self) -> bool:
        """Whether no state was ever seen."""
        try:
            return read_ref(self._store.repository, self.ref) is None
        except StoreError:
            return False

    def read(self) -> bytes:
        """The state that git has just written."""
        return bytes.fromhex((self._store.repository / self.ref).read_text().strip())

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the lock for what git does under locks of its own."""
        with open(self._store.folder / "fetch.lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def unlock(self) -> None:
        """Takes away git's own locks: those of a git that was killed, or that outlives whoever started it."""
        for left in (f"{_SHALLOW}.lock", f"{self.ref}.lock"):
            Path(self._store.repository, left).unlink(missing_ok=True)

    def note(self, state: bytes, ends: Sequence[bytes]) -> None:
        """Notes a state, whose objects are here, with the commits at which its history ends; as `git fetch --depth=1` would."""
        with self.alone():
            self.unlock()
            if ends:
                self._write(_SHALLOW, sorted({*self._known_ends(), *(end.hex() for end in ends)}))
            self._write(self.ref, [state.hex()])

    def trim(self, reached: Callable[[], Iterable[str] | None]) -> None:
        """Takes the ends out that no reference reaches any more: those of states that were replaced.

        `reached` says what references reach; None where that cannot be told. The caller is `alone`.
        """
        ends = self._known_ends()
        if len(ends) <= _ENDS or (still := reached()) is None:
            return
        trimmed = self._ends.with_suffix(".trimmed")
        trimmed.write_text("".join(f"{end}\n" for end in sorted(set(ends) & set(still))))
        with contextlib.suppress(
            FileNotFoundError
        ):  # swept by a collection, as what a killed process left: next time, then
            trimmed.replace(self._ends)

    def _known_ends(self) -> list[str]:
        return self._ends.read_text().split() if self._ends.exists() else []

    def _write(self, name: str, lines: Iterable[str]) -> None:
        path, lock = self._store.repository / name, self._store.repository / f"{name}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(lock, "x") as file:
                file.writelines(f"{line}\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            lock.replace(path)
        except OSError as error:
            raise no_room(error, self._store.folder) from error
