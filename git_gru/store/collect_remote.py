"""Collecting on a remote: models that no reference of it reaches are dropped there, in two steps and beside pushers.

The first collection *marks* what it sees unneeded, with the time; a later one drops what is still unneeded after the grace time.
A push whose commits reach a marked model takes the mark away before it sends the branch (`publish`), and a model is dropped only
under the lease of a state in which it is marked: between the two no model is lost, whoever comes first.
"""

from collections.abc import Set
from dataclasses import dataclass

from git_gru.store.promised import keep_promised
from git_gru.store.publish import MOST_TRIES, republish
from git_gru.store.remote import Remote, RemoteError, blamed
from git_gru.store.store import Store
from git_gru.store.trees import StoreTree


@dataclass(frozen=True, slots=True)
class CollectedRemote:
    """Digests of the models that were dropped, and of those that wait for the grace time to pass."""

    dropped: frozenset[str]
    waiting: frozenset[str]


def collect_remote(
    store: Store, remote: Remote, needed: Set[str], *, now: int, grace: int, dry_run: bool = False
) -> CollectedRemote:
    """Marks the remote's models that are not `needed` (digests), and drops those marked at least `grace` seconds ago.

    `needed` must hold every model that any reference of the remote reaches, as of now or later; `now` is in seconds since
    1970. Raises `RemoteError`.
    """
    with store.locked(alone=False):
        for _ in range(MOST_TRIES):
            tip = remote.look()
            with blamed(remote):
                state = StoreTree(store.objects, tip)
                unneeded = state.models().keys() - needed
            due = {d for d in unneeded & state.unneeded.keys() if state.unneeded[d] + grace <= now}
            # A mark keeps its time whatever the clock says now: one that went backwards must not make it older
            marks = {digest: state.unneeded.get(digest, now) for digest in unneeded}
            found = CollectedRemote(frozenset(due), frozenset(unneeded - due))
            if dry_run or (marks == state.unneeded and not due):
                return found
            if marks == state.unneeded or _mark(store, remote, state, marks):
                break
        else:
            raise RemoteError(f"others publish to {remote.name} all the time: nothing was dropped")
    if due:
        republish(store, remote, [], drop=due)
    return found


def _mark(store: Store, remote: Remote, state: StoreTree, marks: dict[str, int]) -> bool:
    """Publishes the marks; False when the state was moved meanwhile."""
    new, entries = state.write({}, parent=state.commit, incoming=state.incoming, unneeded=marks)
    keep_promised(store.repository, entries)
    return remote.move(new, state.commit)
