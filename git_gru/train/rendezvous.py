"""The rendezvous of a generation's agents, for PyTorch's elastic agent: a store that node 0 keeps, on one address alone.

PyTorch's own (`c10d`) listens on every interface, whatever address it is told, and unpickles what stands in its store: whoever
reaches its port can run code. Here the launchers have agreed on who takes part (`leading`), so there is nothing to agree on and
nothing is unpickled: node 0's agent keeps the store, the others find it by its address. On one machine that is the loopback
interface, on a port that the system picks. Each generation has a store of its own: workers that read what is left of an
earlier one would look for each other at addresses where nobody is.
"""

import datetime
import socket

from torch.distributed import (  # type: ignore[attr-defined, unused-ignore]
    DistError,
    PrefixStore,
    TCPStore,
)
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

from git_gru.train.nodes import LOOPBACK, Generation, JoinError

BACKEND = "git-gru"
_ID = "git-gru"


class GivenRendezvous(RendezvousHandler):
    """The rendezvous of `generation`, of this machine alone where that is None; waits `patience` seconds for the others.

    `listener` is the descriptor of the socket at which node 0 listens, None on other nodes and for one machine alone.
    """

    def __init__(self, generation: Generation | None, listener: int | None, patience: float) -> None:
        self._generation = generation or Generation(
            index=1, node=0, rank=0, count=1, host=LOOPBACK, port=0, address=LOOPBACK
        )
        self._listener = listener
        self._patience = datetime.timedelta(seconds=patience)

    def get_backend(self) -> str:
        """The name that the agent is told."""
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """The workers use the agents' store, so rank 0 opens none of its own."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Waits for all nodes. Raises `JoinError`."""
        here, port, listener = self._generation, self._generation.port, self._listener
        if here.rank == 0 and listener is None:
            own = socket.create_server((here.host, port))
            port, listener = own.getsockname()[1], own.detach()  # the store closes the socket
        try:
            store = TCPStore(
                here.host,
                port,
                world_size=here.count,
                is_master=here.rank == 0,
                timeout=self._patience,
                multi_tenant=True,
                master_listen_fd=listener,
            )
        except DistError as error:
            raise JoinError(
                f"the agents of the {here.count} nodes did not meet at {here.host}:{port} within "
                f"{self._patience.total_seconds():g} seconds (launch.join_timeout)",
                hint="Node 0 keeps the workers' store there, on a port that the system picks: a firewall must let the nodes' "
                "traffic to each other through.",
            ) from error
        return RendezvousInfo(
            PrefixStore(_ID, store), here.rank, here.count, RendezvousStoreInfo(here.host, port)
        )

    def is_closed(self) -> bool:
        """Never: there is one round."""
        return False

    def set_closed(self) -> None:
        """Nothing to do: nobody else is to be told."""

    def num_nodes_waiting(self) -> int:
        """None: whoever comes later is for the next generation."""
        return 0

    def get_run_id(self) -> str:
        """The same on every node."""
        return _ID

    def shutdown(self) -> bool:
        """Nothing to do: the store goes with the agent."""
        return True


def register(generation: Generation | None, listener: int | None, patience: float) -> None:
    """Makes `torch.distributed.run` know the backend, for the agent of this machine."""

    def create(parameters: RendezvousParameters) -> RendezvousHandler:
        return GivenRendezvous(generation, listener, patience)

    rendezvous_handler_registry.register(BACKEND, create)
