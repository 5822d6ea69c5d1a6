"""The rendezvous of a run's agents, for PyTorch's elastic agent: a store that node 0 keeps, on one address alone.

PyTorch's own (`c10d`) listens on every interface, whatever address it is told, and unpickles what stands in its store: whoever
reaches its port can run code. Where the number of machines is fixed there is nothing to agree on, so nothing is unpickled: node
0's agent keeps the store, the others find it by its address. On one machine that is the loopback interface, on a port that the
system picks.
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

from git_gru.errors import RunFailedError
from git_gru.train.nodes import Nodes

BACKEND = "git-gru"
LOOPBACK = "127.0.0.1"
_ID = "git-gru"


class JoinError(RunFailedError):
    """The nodes of a run did not come together."""


class FixedRendezvous(RendezvousHandler):
    """The rendezvous of `nodes`, of this machine alone where that is None; waits `patience` seconds for the others."""

    def __init__(self, nodes: Nodes | None, patience: float) -> None:
        self._nodes = nodes or Nodes(count=1, rank=0, host=LOOPBACK, port=0, address=LOOPBACK)
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
        nodes = self._nodes
        if nodes.rank == 0:
            store, port = self._keep(nodes)
        else:
            store, port = self._find(nodes), nodes.port
        return RendezvousInfo(
            PrefixStore(_ID, store), nodes.rank, nodes.count, RendezvousStoreInfo(nodes.host, port)
        )

    def _keep(self, nodes: Nodes) -> tuple[TCPStore, int]:
        try:
            listener = socket.create_server((nodes.host, nodes.port))
        except OSError as error:
            raise JoinError(
                f"node 0 cannot listen at {nodes.host}:{nodes.port}: {error.strerror or error}",
                hint="Another program may have the port, or the address is not this machine's: choose another --rdzv-endpoint.",
            ) from error
        port: int = listener.getsockname()[1]
        try:
            return self._store(nodes, port, listener.detach()), port  # the store closes the socket
        except DistError as error:
            raise JoinError(
                f"not all of the {nodes.count} nodes came within {self._patience.seconds} seconds (launch.join_timeout)",
                hint=f"Start the others with the same command and a --node-rank of their own, up to {nodes.count - 1}; each "
                f"must reach {nodes.host}:{nodes.port}.",
            ) from error

    def _find(self, nodes: Nodes) -> TCPStore:
        try:
            return self._store(nodes, nodes.port, None)
        except DistError as error:
            raise JoinError(
                f"node 0 was not found at {nodes.host}:{nodes.port} within {self._patience.seconds} seconds "
                "(launch.join_timeout), or other nodes did not come",
                hint="Start node 0, and see that this machine reaches that port (a firewall, another network).",
            ) from error

    def _store(self, nodes: Nodes, port: int, listener: int | None) -> TCPStore:
        return TCPStore(
            nodes.host,
            port,
            world_size=nodes.count,
            is_master=nodes.rank == 0,
            timeout=self._patience,
            multi_tenant=True,
            master_listen_fd=listener,
        )

    def is_closed(self) -> bool:
        """Never: there is one round."""
        return False

    def set_closed(self) -> None:
        """Nothing to do: nobody else is to be told."""

    def num_nodes_waiting(self) -> int:
        """None: whoever is not there at the beginning does not come."""
        return 0

    def get_run_id(self) -> str:
        """The same on every node."""
        return _ID

    def shutdown(self) -> bool:
        """Nothing to do: the store goes with the agent."""
        return True


def register(nodes: Nodes | None, patience: float) -> None:
    """Makes `torch.distributed.run` know the backend, for the agent of this machine."""

    def create(parameters: RendezvousParameters) -> RendezvousHandler:
        return FixedRendezvous(nodes, patience)

    rendezvous_handler_registry.register(BACKEND, create)
