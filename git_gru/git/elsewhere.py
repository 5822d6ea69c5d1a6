"""Where models are that the store does not have: the remotes are asked.

A remote's state is looked at in a store of its own, so that this works beside a store that is damaged or cannot be written.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from git_gru.git.repository import Repository
from git_gru.git.sources import CONFIG_FILE, Unapproved, sources
from git_gru.store.remote import RemoteError, blamed
from git_gru.store.scratch import scratch_store
from git_gru.store.trees import StoreTree


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """What remotes have: digest -> the first remote whose state names the model; and those that could not be asked -> why."""

    remotes: Mapping[str, str]
    unreached: Mapping[str, str]

    def only(self, digests: Collection[str]) -> "Elsewhere":
        """What remotes have of the models `digests`."""
        remotes = {digest: name for digest, name in self.remotes.items() if digest in digests}
        return Elsewhere(remotes=remotes, unreached=self.unreached if digests else {})


def find_elsewhere(repo: Repository, digests: Collection[str]) -> Elsewhere:
    """Asks the repository's remotes, in order, until all of the models `digests` are found."""
    remotes: dict[str, str] = {}
    unreached: dict[str, str] = {}
    wanted = set(digests)
    if wanted:
        with scratch_store() as scratch:
            for remote in sources(repo, scratch):
                if isinstance(remote, Unapproved):
                    unreached[CONFIG_FILE] = (
                        f"the store that it names, {remote.url}, is not approved: git gru trust"
                    )
                    continue
                try:
                    with blamed(remote):
                        there = wanted & StoreTree(scratch.objects, remote.look()).models().keys()
                except RemoteError as error:
                    unreached[remote.name] = str(error)
                    continue
                remotes.update(dict.fromkeys(there, remote.name))
                wanted -= there
                if not wanted:
                    break
    return Elsewhere(remotes=remotes, unreached=unreached)
