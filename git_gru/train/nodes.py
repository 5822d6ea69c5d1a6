"""The machines of a run that has several: what each of them is told, and how it finds itself on the network. Free of torch.

The same command is given on every node, but for the node's number. Node 0 keeps the run's store at the endpoint, its rank 0
commits, and its launcher writes the record; the others train, and write nothing.
"""

import contextlib
import fcntl
import ipaddress
import re
import socket
import struct
from dataclasses import dataclass

from git_gru.errors import InputError

_SIOCGIFADDR = 0x8915
"""Linux's ioctl that tells an interface's IPv4 address; netdevice(7)."""
_ENDPOINT = re.compile(r"(?P<host>[^:\s]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})")


class NodesError(InputError):
    """What was said of a run's machines cannot be."""


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """A run's machines as one of them sees them: `count` of them, of which this is `rank`; node 0 listens at `host`:`port`.

    `address` is this machine's, by which the others reach it.
    """

    count: int
    rank: int
    host: str
    port: int
    address: str

    @property
    def is_public(self) -> bool:
        """Whether anyone on the internet might reach the endpoint."""
        with contextlib.suppress(ValueError, OSError):
            return ipaddress.ip_address(socket.gethostbyname(self.host)).is_global
        return False


def nodes_of(count: int, rank: int, endpoint: str, address: str | None = None) -> Nodes:
    """The machines that the command line names. Raises `NodesError`."""
    if not 0 <= rank < count:
        raise NodesError(
            f"--node-rank is {rank}, and the {count} nodes are numbered from 0 to {count - 1}",
            hint="Give each node a number of its own.",
        )
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        raise NodesError(f"--rdzv-endpoint is {endpoint!r}, and must be HOST:PORT, node 0's address")
    host, port = found["host"].strip("[]"), int(found["port"])
    return Nodes(count=count, rank=rank, host=host, port=port, address=address or _own_address(host, port))


def _own_address(host: str, port: int) -> str:
    """This machine's address on the way to `host`, which nothing is sent to. Raises `NodesError`."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise NodesError(
            f"{host} (--rdzv-endpoint) cannot be reached from here: {error.strerror or error}",
            hint="Name node 0 as this machine knows it; --local-addr says which of its own addresses this one shall use.",
        ) from error


def interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address; None where it cannot be told."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None
