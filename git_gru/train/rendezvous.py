"""The rendezvous of a run on one machine, for PyTorch's elastic agent: a store on a socket of the loopback interface.

PyTorch's own (`c10d`) listens on every interface, whatever address it is told, and unpickles what stands in its store: whoever
reaches its port can run code. Where all workers are on one machine, membership is fixed, and there is nothing to agree on: the
agent keeps the store, on a port that the system picks, and the workers find it by its address.
"""

import socket
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined, unused-ignore]
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

BACKEND = "git-gru-loopback"
LOOPBACK = "127.0.0.1"


class LoopbackRendezvous(RendezvousHandler):
    """The rendezvous of the run `run_id` with one agent, this one."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._socket = socket.create_server((LOOPBACK, 0))
        self._port: int = self._socket.getsockname()[1]
        self._store = TCPStore(
            LOOPBACK,
            self._port,
            world_size=1,
            is_master=True,
            multi_tenant=True,
            master_listen_fd=self._socket.detach(),  # the store closes it
        )

    def get_backend(self) -> str:
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """The workers use the agent's store, so rank 0 opens none of its own."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        store = PrefixStore(self._run_id, self._store)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(LOOPBACK, self._port))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        """Nothing to do: nobody else is to be told."""

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True


def _create(parameters: RendezvousParameters) -> Any:
    return LoopbackRendezvous(parameters.run_id)


def register() -> None:
    """Makes `torch.distributed.run` know the backend."""
    rendezvous_handler_registry.register(BACKEND, _create)
