"""Remotes: where a store's objects go to and come from.

A *remote* keeps the same objects as a store: a commit with its trees (`trees`), of which it names one as its *state*. Whoever
works with a remote has its objects in the local `Objects` first: `look` brings the state's commit and upper trees, `trees` and
`blobs` what is asked for by name, `move` sends a new state with all objects that the remote lacks. The state moves by
compare-and-swap, so that of two who publish at once none loses what it published.

`publish` and `bring` work through this Protocol alone. Git hosts are one implementation (`git/git_remote.py`); the one in memory
(`memory_remote`) is the reference for it and for those to come: tests/git/test_remote_contract.py is what each must pass.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from git_gru.errors import GruError, StoreError
from git_gru.store.pack_reader import REPAIR, ObjectDamagedError

NOT_OURS = (
    "Something else than git-gru wrote to refs/gru/store there, or the remote is damaged: git fsck, on the remote, tells. "
    "How a hub is mended: docs/maintenance.md, A hub that is damaged"
)


class RemoteError(GruError):
    """A remote that cannot be reached, refuses, or lacks what it should have."""

    exit_code = 5


class Remote(Protocol):
    """One remote as seen from one store. For one thread."""

    @property
    def name(self) -> str:
        """The remote's name or address, for messages; `refs/gru/remotes/<name>` remembers its state."""
        ...

    def look(self) -> bytes | None:
        """The remote's state now (a commit), or None while it has none; its upper trees are here on return.

        Raises `RemoteError` when the remote cannot be read.
        """
        ...

    def trees(self, oids: Sequence[bytes]) -> None:
        """Makes these model trees durable here. Raises `RemoteError` where one cannot be had."""
        ...

    def models(self, trees: Sequence[bytes], chunks: Sequence[str]) -> None:
        """As `trees`, with all the blobs that these name: for a store that has none of them, in one conversation.

        `chunks` (ids) are wanted first, in this order.
        """
        ...

    def blobs(self, oids: Sequence[bytes]) -> None:
        """Makes these blobs durable here. Raises `RemoteError` where one cannot be had."""
        ...

    def move(self, new: bytes, old: bytes | None, *, replace: bool = False, shared: bool = True) -> bool:
        """Sends the commit `new` with what the remote lacks of it, and makes it the state if that is still `old`.

        `new` is a child of `old`, or with `replace` has no parent. `shared` says that its new model trees name blobs of any
        size that the remote has in other models: not to send these again may take time that grows with all models. False when the
        state is another by now. Raises `RemoteError` when the remote refuses.
        """
        ...


@contextlib.contextmanager
def blamed(remote: Remote, ours: Collection[Path] = ()) -> Iterator[None]:
    """Raises `RemoteError`, naming the remote, for what is wrong with objects that came from it.

    What is damaged in the packs `ours`, which were here before, is not the remote's fault, and raised as it is.
    """
    try:
        yield
    except StoreError as error:
        if isinstance(error, ObjectDamagedError) and error.pack in ours:
            raise
        hint = error.hint if error.hint != REPAIR else None
        raise RemoteError(
            f"what the remote {remote.name} keeps is not right: {error}", hint=hint or NOT_OURS
        ) from error
