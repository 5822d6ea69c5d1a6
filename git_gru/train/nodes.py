"""The machines of a run that has several: what each of them is told, and how it finds itself on the network. Free of torch.

Node 0 keeps the run: it listens at the endpoint, its rank 0 commits, and its launcher writes the record (`leading`). The others
join it, learn from it what to train, and write nothing (`assisting`). Whenever the nodes that train are others than before,
they come together anew: each such time is a *generation* of the run.
"""

import contextlib
import fcntl
import ipaddress
import re
import socket
import struct
from dataclasses import dataclass

from git_gru.errors import InputError, RunFailedError

LOOPBACK = "127.0.0.1"
_SIOCGIFADDR = 0x8915
"""Linux's ioctl that tells an interface's IPv4 address; netdevice(7)."""
_COUNTS = re.compile(r"(?P<least>\d{1,4})(?P<elastic>:(?P<most>\d{1,4}))?")
_ENDPOINT = re.compile(r"(?P<host>[^:\s]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})")


class NodesError(InputError):
    """What was said of a run's machines cannot be."""


class JoinError(RunFailedError):
    """The nodes of a run did not come together."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many machines a run may have. `is_elastic` (`MIN:MAX`): they may come and go; else a lost one ends the run."""

    least: int
    most: int
    is_elastic: bool

    def __str__(self) -> str:
        return f"{self.least}:{self.most}" if self.is_elastic else str(self.least)


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """A run's machines as one of them sees them: `counts` of them; node 0 listens at `host`:`port`.

    `number` is this machine's; None for one that takes what node 0 gives it. `address` is this machine's, by which the others
    reach it.
    """

    counts: Counts
    number: int | None
    host: str
    port: int
    address: str

    @property
    def is_first(self) -> bool:
        """Whether this is node 0."""
        return self.number == 0

    @property
    def is_public(self) -> bool:
        """Whether anyone on the internet might reach the endpoint."""
        found = _address_of(self.host)
        return found is not None and found.is_global

    @property
    def is_loopback(self) -> bool:
        """Whether the endpoint means this machine to every machine, so that no other one reaches it."""
        found = _address_of(self.host)
        return found is not None and found.is_loopback


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The nodes of a run between two changes of them, as one of them sees them: the `rank`-th of `count`.

    `index` counts a run's generations from 1, `node` is the node's number in the run. Node 0's agent keeps the store at
    `host`:`port`; `address` is this machine's.
    """

    index: int
    node: int
    rank: int
    count: int
    host: str
    port: int
    address: str


def counts_of(text: str) -> Counts:
    """The counts in `N` or `MIN:MAX`. Raises `NodesError`."""
    found = _COUNTS.fullmatch(text)
    least, most = (int(found["least"]), int(found["most"] or found["least"])) if found else (0, 0)
    if found is None or not 1 <= least <= most or most < 2:
        raise NodesError(f"--nnodes is {text!r}, and must be a number from 2 on, or two of them as MIN:MAX")
    return Counts(least=least, most=most, is_elastic=found["elastic"] is not None)


def nodes_of(counts: Counts, number: int | None, endpoint: str, address: str | None = None) -> Nodes:
    """The machines that the command line names. Raises `NodesError`."""
    if number is not None and number >= counts.most:
        raise NodesError(
            f"--node-rank is {number}, and the {counts.most} nodes are numbered from 0 to {counts.most - 1}",
            hint="Give each node a number of its own.",
        )
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or not 0 < int(found["port"]) < 1 << 16 or not _is_host(found["host"]):
        raise NodesError(f"--rdzv-endpoint is {endpoint!r}, and must be HOST:PORT, node 0's address")
    host, port = found["host"], int(found["port"])
    if host.startswith("["):
        raise NodesError(
            f"--rdzv-endpoint is {endpoint}, an IPv6 address, and nodes meet over IPv4 alone",
            hint="Name an IPv4 address of node 0.",
        )
    if (at := _address_of(host)) is not None and at.is_unspecified:
        raise NodesError(
            f"--rdzv-endpoint is {endpoint}, which stands for all addresses of a machine: node 0 listens at one alone",
            hint="Name the address of node 0 by which the others reach it.",
        )
    if address is not None:
        _require_own(address)
    return Nodes(
        counts=counts, number=number, host=host, port=port, address=address or _own_address(host, port)
    )


def _is_host(text: str) -> bool:
    """Whether it can be a host's name or address at all."""
    try:
        return bool(text.encode("idna"))
    except UnicodeError:
        return False


def _address_of(host: str) -> ipaddress.IPv4Address | None:
    """What the name of a host stands for here; None where that is not known."""
    with contextlib.suppress(ValueError, OSError):
        return ipaddress.IPv4Address(socket.gethostbyname(host))
    return None


def _require_own(address: str) -> None:
    """Raises `NodesError` unless this is an address of this machine's."""
    hint = "Leave it out, and the address counts by which this machine reaches node 0."
    try:
        found = ipaddress.IPv4Address(address)
    except ValueError as error:
        raise NodesError(
            f"--local-addr is {address!r}, and must be an IPv4 address of this machine", hint=hint
        ) from error
    if found.is_unspecified or found.is_multicast or not _can_bind(address):
        raise NodesError(f"--local-addr is {address}, which is no address of this machine's own", hint=hint)


def _can_bind(address: str) -> bool:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


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
